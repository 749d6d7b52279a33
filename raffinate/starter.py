"""The recipe that ``raffinate init`` writes: complete, commented, and running as it is."""

RECIPE = """\
# A raffinate recipe. Run it with  raffinate run THIS_FILE ; run it again to go on where it stopped.
# Paths are relative to this file. Secrets are written ${NAME} and come from the environment.

workspace: my-dataset                # folder that the run works in; it is also what you publish

questions:
  sandbox: {n: 400, seed: 0}         # made-up questions, to try everything without spending
  # path: questions.jsonl            # or your own: Parquet, JSONL or CSV (a glob is fine)
  # columns: {question: prompt, answer: label, question_id: id}   # our field: your column
  # preset: openbookqa               # or a known set from the Hub: arc_challenge, gsm8k, mmlu_pro, ...
  # hub: someone/dataset             # or any other dataset of the Hub
  # split_by_hash: {train: 0.7, validation: 0.1, test: 0.2}

sandbox:                             # simulated teachers on this machine; remove it when you have real ones
  port: 18765

teachers:
  - {id: ada, model: sandbox/ada, base_url: "http://127.0.0.1:18765/v1"}
  - {id: bo, model: sandbox/bo, base_url: "http://127.0.0.1:18765/v1"}
  # - id: qwen                       # a vLLM server of yours:  vllm serve Qwen/Qwen3-8B
  #   model: Qwen/Qwen3-8B
  #   base_url: http://127.0.0.1:8000/v1
  #   licence: apache-2.0            # of the model's outputs; goes into the card, never guessed
  #   params: {temperature: 0.7, max_tokens: 2048, seed: 1}
  # - id: gpt
  #   model: gpt-5-mini
  #   base_url: https://api.openai.com/v1
  #   api_key: ${OPENAI_API_KEY}
  #   max_tokens_field: max_completion_tokens
  #   price: {prompt_per_million: 0.25, completion_per_million: 2.0, batch_share: 0.5}
  #   batch: true                    # by the Batch API: cheaper, within a day
  #   follow_up: true                # ask again, for the answer alone, where none can be read

# judges:                            # like teachers, but asked no questions: aggregate, peer-review, ... ask them
#   - {id: judge, model: gpt-5, base_url: "https://api.openai.com/v1", api_key: "${OPENAI_API_KEY}"}

prompt: free                         # or teacher-forced, few-shot, or the path of your own Jinja2 file

# build: {max_cost_usd: 20, max_failed_share: 0.05}

purify:                              # one dataset config per method;  raffinate methods  lists them
  - majority
  - gold-first
  # - {method: plackett-luce, gamma: 100}      # needs  pip install 'raffinate[routers]'
  # - {method: aggregate, judge: judge}       # an LLM merges the rationales;  raffinate methods  has the others

evaluate_on: test

# card: {title: My dataset, language: en, license: cc-by-4.0}
"""
