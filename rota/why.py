"""Why a job does not run: ``rota why ID [--json]``, in DATABASE_URL's database."""

import argparse
import json

from rota.doctor import ask, print_row


def main(arguments: list[str] | None = None) -> int:
    """Print each reason, what blocks first; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="rota why",
        description="Say why a job of the database of DATABASE_URL does not run, or that it does,"
        " and what to do about it.",
    )
    parser.add_argument("job_id", type=int, metavar="ID")
    parser.add_argument("--json", action="store_true", help="for programs: a list of reasons")
    options = parser.parse_args(arguments)
    if not -(2**63) <= options.job_id < 2**63:
        parser.error(f"{options.job_id} is not the id of a job")
    answers = ask("rota why", "explain_job", job_id=options.job_id)
    found = [rows for _, rows in answers if rows is not None]
    if not found:
        return 1
    # Of several databases one has it, and the others do not know it.
    reasons = min(found, key=lambda rows: [row["code"] for row in rows] == ["UNKNOWN"])
    if options.json:
        print(json.dumps(reasons, indent=2))
        return 0
    for row in reasons:
        head = f"{'BLOCKS' if row['blocks'] else '':8}  {row['code']}: {row['reason']}"
        print_row(head, row["remedy"])
    return 0
