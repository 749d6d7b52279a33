"""vLLM in process: what `builders.vllm_inside` runs in the interpreter that has vLLM. Nothing of ours is imported.

    python vllm_worker.py --model MODEL [engine arguments of vLLM]

One JSON object per line. In: ``{"id", "body"}``, the body of a chat completion, or ``{"drop": id}``. Out: first
``{"ready": true}``, then ``{"id", "status", "body"}``, as the server would have answered. It ends when its input does.

`LLM.enqueue_chat` is `LLM.chat` without the wait: requests join the running batch as they come and each reply leaves
as it is done, so the GPU never idles behind the slowest of a batch. Bodies are read by the server's own
`ChatCompletionRequest`, so that a parameter means the same either way.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # our folder: its requests.py and numbers.py are not those that vLLM looks for

import json
import os
import queue
import threading
from typing import Any

NO_VLLM = 3
"""Exit code where vLLM is not installed."""


class Worker:
    """One model. `serve` runs until the input ends."""

    def __init__(self, args: list[str], out: Any) -> None:
        from vllm import LLM
        from vllm.engine.arg_utils import EngineArgs
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        given = EngineArgs.from_cli_args(EngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(args))
        self._llm, self._out = LLM.from_engine_args(given), out
        self._engine = self._llm.llm_engine
        self._defaults = self._llm.model_config.get_diff_sampling_param()
        self._parser = _reasoning_parser(self._engine.vllm_config.structured_outputs_config.reasoning_parser)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._asked: dict[str, tuple[int, Any, str]] = {}  # vLLM's id -> our id, the request, the id to abort it by

    def serve(self) -> None:
        """Answer what comes in, until nothing can."""
        threading.Thread(target=self._read, daemon=True).start()
        self._say({"ready": True})
        while True:
            busy = self._engine.has_unfinished_requests()
            while not busy or not self._lines.empty():
                line = self._lines.get()
                if line is None:
                    return
                self._take(json.loads(line))
                busy = True
            for output in self._engine.step():
                if output.finished and output.request_id in self._asked:
                    number, request, _ = self._asked.pop(output.request_id)
                    self._answer(number, *self._completion(request, output))

    def _read(self) -> None:
        for line in sys.stdin:
            self._lines.put(line)
        self._lines.put(None)

    def _say(self, message: dict[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def _answer(self, number: int, status: int, body: dict[str, Any]) -> None:
        self._say({"id": number, "status": status, "body": body})

    def _take(self, message: dict[str, Any]) -> None:
        if "drop" in message:
            for key, (number, _, abort_id) in list(self._asked.items()):
                if number == message["drop"]:
                    del self._asked[key]
                    self._engine.abort_request([abort_id], internal=True)
            return
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            self._enqueue(message["id"], message["body"])
        except EngineDeadError:
            raise
        except Exception as error:  # a request that is not taken is a bad one; refusals have no common ancestor
            self._answer(message["id"], 400, {"error": {"message": str(error)}})

    def _enqueue(self, number: int, body: dict[str, Any]) -> None:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        request = ChatCompletionRequest(**body)
        request.build_tok_params(self._llm.model_config)  # refuses a token limit that cannot be
        limit = body.get("max_completion_tokens") or body["max_tokens"]
        (abort_id,) = self._llm.enqueue_chat(
            [body["messages"]],
            request.to_sampling_params(limit, self._defaults),
            use_tqdm=False,
            chat_template=request.chat_template,
            chat_template_kwargs=request.build_chat_params(None, "auto").chat_template_kwargs,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
        )
        self._asked[abort_id.partition("-")[0]] = (number, request, abort_id)

    def _completion(self, request: Any, output: Any) -> tuple[int, dict[str, Any]]:
        """A chat completion of the server's shape, with what our reader looks at."""
        said = output.outputs[0]
        if said.finish_reason in ("error", "abort"):
            return 500, {"error": {"message": f"vLLM ended the request with {said.finish_reason}"}}
        content, reasoning = said.text, None
        if self._parser is not None:
            kwargs = request.build_chat_params(None, "auto").chat_template_kwargs
            parser = self._parser(self._llm.get_tokenizer(), chat_template_kwargs=kwargs)
            reasoning, content = parser.extract_reasoning(said.text, request)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": content, "reasoning": reasoning},
            "logprobs": {"content": _logprobs(said)} if said.logprobs is not None else None,
            "finish_reason": said.finish_reason,
        }
        usage = {"prompt_tokens": len(output.prompt_token_ids), "completion_tokens": len(said.token_ids)}
        return 200, {"object": "chat.completion", "model": request.model, "choices": [choice], "usage": usage}


def _logprobs(said: Any) -> list[dict[str, Any]]:
    chosen = [step[token] for step, token in zip(said.logprobs, said.token_ids, strict=True)]
    return [{"token": c.decoded_token, "logprob": max(c.logprob, -9999.0)} for c in chosen]


def _reasoning_parser(name: str) -> Any:
    if not name:
        return None
    from vllm.reasoning import ReasoningParserManager

    return ReasoningParserManager.get_reasoning_parser(name)


def main() -> None:
    """Serve the model that the command line names."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever vLLM prints is log
    try:
        import vllm  # noqa: F401
    except ModuleNotFoundError as error:
        print(error, file=sys.stderr)
        sys.exit(NO_VLLM if error.name == "vllm" else 1)
    Worker(sys.argv[1:], out).serve()


if __name__ == "__main__":
    main()
