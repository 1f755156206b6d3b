"""A stand-in for `sacct` on a cluster without accounting: it answers from what the controller still remembers.

submitit polls jobs by sacct and waits forever where nothing answers. This is a program of its own that needs only the
interpreter; it knows the options of `sacct -o JobID,State,NodeList --parsable2 -j ID` and no others.
"""

from __future__ import annotations

import argparse
import re
import subprocess

KEYS = {"jobid": "JobId", "jobidraw": "JobId", "jobname": "JobName", "partition": "Partition", "state": "JobState"}
"""Names of the fields in the controller's output; three more are derived from it, see `value`."""
MADE = ("nodelist", "exitcode", "restarts")


def parse(text: str) -> list[dict[str, str]]:
    """Return the fields of each job in the output of `scontrol --oneliner show job`."""
    jobs = []
    for line in text.splitlines():
        parts = re.split(r"(?:^| +)([A-Z][\w:/]*)=", line)[1:]
        fields: dict[str, str] = {}
        for key, said in zip(parts[::2], parts[1::2], strict=True):
            fields.setdefault(key, said)  # a later field may be a part of the command line
        if "JobId" in fields:
            jobs.append(fields)
    return jobs


def name(fields: dict[str, str]) -> str:
    """Return `5`, `5_1` for a task of an array, or `5_[2-3]` for its tasks that have not started."""
    if "ArrayJobId" not in fields:
        return fields["JobId"]
    task = fields.get("ArrayTaskId", "0")
    return f"{fields['ArrayJobId']}_{task if task.isdecimal() else f'[{task}]'}"


def value(fields: dict[str, str], column: str) -> str:
    """Return what sacct prints of a job in this column."""
    if column == "jobid":
        return name(fields)
    if column == "nodelist":
        nodes = fields.get("NodeList", "")
        return "None assigned" if nodes in ("", "(null)") else nodes
    if column == "exitcode":
        return fields.get("ExitCode", "0:0")
    if column == "restarts":
        return fields.get("Restarts", "0")
    return fields.get(KEYS[column], "")


def ask(job: str) -> list[dict[str, str]]:
    """Return the job, or the tasks of the array; nothing if the controller does not know it (any more)."""
    done = subprocess.run(["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise SystemExit(f"sacct: error: {done.stderr.strip()}")
    return parse(done.stdout)


def options() -> argparse.Namespace:
    """Parse the command line; an unknown option is an error, since it would be ignored silently."""
    parser = argparse.ArgumentParser("sacct", allow_abbrev=False)
    parser.add_argument("-o", "--format", default="JobID,JobName,Partition,State,ExitCode")
    parser.add_argument("-j", "--jobs", action="append", required=True)
    parser.add_argument("-P", "--parsable2", action="store_true", required=True)
    parser.add_argument("-n", "--noheader", action="store_true")
    parser.add_argument("-X", "--allocations", action="store_true")  # steps are never listed
    return parser.parse_args()


def main() -> None:
    """Print one line per job."""
    asked = options()
    columns = asked.format.split(",")
    if unknown := [column for column in columns if column.lower() not in {*KEYS, *MADE}]:
        raise SystemExit(f"sacct: error: this stand-in does not know the fields {', '.join(unknown)}")
    if not asked.noheader:
        print("|".join(columns))
    for job in ",".join(asked.jobs).split(","):
        for fields in ask(job):
            print("|".join(value(fields, column.lower()) for column in columns))


if __name__ == "__main__":
    main()
