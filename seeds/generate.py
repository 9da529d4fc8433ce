#!/usr/bin/env python3
"""Writes the seed registers from bank/ and divisions.csv; the same bytes every time.

    python3 seeds/generate.py           writes the files and validates them
    python3 seeds/generate.py --check   compares the files on disk and validates them; writes nothing
"""

import csv
import io
import sys

import hazards
import registers
import validate
from world import HERE, World


def headed(message, fields):
    return [f"{message}.{field}" for field in fields]


AGENCY = ["id", "name", "divisions", "kind", "node"]
RISK = (["name", "title", "sector"] + headed("place", registers.PLACE)
        + ["level", "state", "factor", "consequences", "basis"]
        + headed("responsible_unit", registers.UNIT) + ["regulator", "review_cycle_days", "note"])
MEASURE = (["name", "risk", "measure_class", "description"]
           + headed("responsible_unit", registers.UNIT)
           + ["cycle_days", "due_time", "funds_fen", "evidence", "state", "note"])
INCIDENT = (["name", "title", "report.kind", "report.number", "report.signed_off_by",
             "report.correction_reason", "report.after_final", "event_class", "event_type.scheme", "event_type.code"]
            + headed("place", registers.PLACE) + headed("unit", registers.UNIT)
            + ["occurred_time", "informed_time", "received_time", "forwarded_time", "course"]
            + headed("casualties", registers.PEOPLE) + ["direct_loss_fen", "measures_taken", "note"])


HAZARD = (["name", "title", "level", "source", "treatment"] + headed("place", registers.PLACE)
          + ["description", "criterion"] + headed("unit", registers.UNIT)
          + ["found_time", "risk", "measure", "duplicate_of"]
          + headed("rectification", hazards.RECTIFICATION) + ["rectified_time"]
          + headed("acceptance", hazards.ACCEPTANCE) + ["closing_document", "state", "note"])


def encode(header, rows, bom=True):
    """A CSV file's bytes; the byte order mark lets spreadsheet programs see UTF-8."""
    text = io.StringIO()
    writer = csv.DictWriter(text, header, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig" if bom else "utf-8")


def build():
    """Every file's bytes, by name."""
    world = World()
    risks = registers.risks(world)
    measures = registers.measures(risks)
    firsts, laters = registers.incidents(world)
    found, settled = hazards.hazards(risks, measures)
    return {
        "agencies.csv": encode(AGENCY, world.agencies(), bom=False),
        "risks.csv": encode(RISK, risks),
        "measures.csv": encode(MEASURE, measures),
        "incidents.csv": encode(INCIDENT, firsts),
        "incident-follow-ups.csv": encode(INCIDENT, laters),
        "hazards.csv": encode(HAZARD, found),
        "hazard-follow-ups.csv": encode(HAZARD, settled),
    }


def main(arguments):
    if arguments not in ([], ["--check"]):
        sys.exit(__doc__)
    faults = []
    for name, content in build().items():
        path = HERE / name
        if not arguments:
            path.write_bytes(content)
        elif not path.exists() or path.read_bytes() != content:
            faults.append(f"{name}: differs from what the generator writes")
    faults += validate.validate(HERE)
    for fault in faults:
        print(fault, file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
