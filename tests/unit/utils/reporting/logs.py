"""Log lines for the tests of the report."""

import json


def line(step, elapsed=0.0, **data):
    record = {"elapsedtime": str(elapsed), "type": "LOG", "step": step, "data": data}
    return f"DLLL {json.dumps(record)}\n"


def parameters(**values):
    return "".join(line("PARAMETER", **{name: value}) for name, value in values.items())
