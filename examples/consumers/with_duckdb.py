"""Ask a dataset questions in SQL, with DuckDB alone.

python examples/consumers/with_duckdb.py FOLDER
"""

from __future__ import annotations

import sys

import duckdb

ACCURACY = """
SELECT teacher_id, count(*) AS responses, round(avg(is_correct::INTEGER), 3) AS accuracy
FROM read_parquet($folder || '/responses/*/*.parquet', union_by_name = true)
GROUP BY teacher_id ORDER BY teacher_id
"""
DISPUTED = """
SELECT p.question_id, p.conflict, p.teacher_id, p.predicted_answer, q.answer
FROM read_parquet($folder || '/purified/*/*.parquet') p
JOIN read_parquet($folder || '/questions/*.parquet') q USING (question_id)
ORDER BY p.conflict DESC NULLS LAST, p.question_id LIMIT 5
"""


def main(folder: str) -> None:
    for title, sql in (("Accuracy by teacher", ACCURACY), ("Most disputed questions", DISPUTED)):
        print(title)
        print(duckdb.sql(sql, params={"folder": folder}))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/consumers/with_duckdb.py FOLDER")
    main(sys.argv[1])
