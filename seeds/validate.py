"""Checks the seed files on disk against the rules of the protos and against their own promises."""

import csv
import datetime
import re
from collections import Counter

import codes

# Longitude and latitude between which a county's land and near shore lie.
BOUNDS = {
    "320612": (120.62, 121.55, 31.85, 32.27), "320613": (120.72, 121.00, 31.92, 32.15),
    "320614": (121.03, 121.56, 31.75, 32.16), "320623": (120.69, 121.51, 32.18, 32.65),
    "320671": (120.85, 121.09, 31.77, 31.98), "320681": (121.42, 121.98, 31.61, 32.13),
    "320682": (120.33, 120.85, 31.99, 32.50), "320685": (120.19, 120.99, 32.35, 32.72),
}
ROWS = {"risks.csv": 1280, "measures.csv": 1801, "incidents.csv": 30}
REGISTERS = {"risks.csv": "risks", "measures.csv": "measures", "incidents.csv": "incidents",
             "incident-follow-ups.csv": "incidents", "hazards.csv": "hazards",
             "hazard-follow-ups.csv": "hazards"}
LENGTHS = {
    "title": 100, "place.address": 200, "factor": 1000, "basis": 200, "regulator": 120, "note": 1000,
    "description": 4000, "evidence": 500, "course": 4000, "measures_taken": 4000,
    "report.signed_off_by": 60, "report.correction_reason": 500, "event_type.scheme": 40,
}
UNIT_LENGTHS = {"name": 120, "uscc_override_reason": 200, "post": 60}
ENUMS = {
    "level": "LOW GENERAL LARGER MAJOR",
    "measure_class": "ENGINEERING MAINTENANCE OPERATION EMERGENCY",
    "event_class": "NATURAL_DISASTER ACCIDENT PUBLIC_HEALTH SOCIAL_SECURITY",
    "report.kind": "FIRST FOLLOW_UP FINAL CORRECTION",
    "place.datum": "CGCS2000",
    "consequences": "FIRE EXPLOSION POISONING LEAKAGE COLLAPSE FALL MECHANICAL ELECTRIC_SHOCK "
                    "DROWNING VEHICLE BURN CROWD_CRUSH VESSEL OTHER",
}
STATES = {"risks.csv": "IDENTIFIED REVIEWED CONTROLLED", "measures.csv": "PLANNED IN_PLACE FAILED"}
REQUIRED = {
    "risks.csv": "name title sector place.division place.address level state factor consequences "
                 "responsible_unit.name regulator",
    "measures.csv": "name risk measure_class description responsible_unit.name state",
    "incidents.csv": "name title report.kind report.signed_off_by event_class event_type.scheme "
                     "event_type.code place.division place.address occurred_time received_time course",
}
REQUIRED["incident-follow-ups.csv"] = REQUIRED["incidents.csv"]
REQUIRED["hazards.csv"] = REQUIRED["hazard-follow-ups.csv"] = (
    "name title level source treatment place.division place.address description unit.name found_time state")
# Where a hazard may go, and how one that is put right on the spot may.
NEXT = {"REPORTED": "CONFIRMED", "CONFIRMED": "RECTIFYING", "RECTIFYING": "ACCEPTANCE_REQUESTED",
        "ACCEPTANCE_REQUESTED": "PASSED RECTIFYING", "PASSED": "CLOSED"}
MOBILE = re.compile(r"(?<!\d)(?:\+?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}(?!\d)")
IDENTITY = re.compile(r"(?<!\d)[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])\d{5}[\dXx](?!\d)")
NOTE = "合成数据，非真实记录"


def read(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def validate(folder):
    """Every fault found, as lines of text; empty when all is well."""
    agencies = {row["id"]: row for row in read(folder / "agencies.csv")}
    divisions = {row["code"]: row for row in read(folder / "divisions.csv") if not row["valid_to"]}
    files = {name: read(folder / name) for name in REGISTERS}
    faults = agency_faults(folder, agencies, divisions)
    for name, rows in files.items():
        if name in ROWS and len(rows) != ROWS[name]:
            faults.append(f"{name}: {len(rows)} rows, not {ROWS[name]}")
        for line, row in enumerate(rows, start=2):
            found = row_faults(name, row, agencies, divisions)
            faults += [f"{name}:{line}: {fault}" for fault in found]
    return faults + reference_faults(files) + report_faults(files) + hazard_faults(files)


def agency_faults(folder, agencies, divisions):
    faults = []
    if len(agencies) != len(read(folder / "agencies.csv")):
        faults.append("agencies.csv: an id stands twice")
    for agency in agencies.values():
        if not re.fullmatch(r"[a-z][a-z0-9-]*", agency["id"]):
            faults.append(f"agencies.csv: {agency['id']} is no slug")
        for code in agency["divisions"].split(";"):
            if code not in divisions:
                faults.append(f"agencies.csv: {agency['id']} names the unknown division {code}")
    return faults


def row_faults(file, row, agencies, divisions):
    """Faults of one row by itself."""
    faults = [f"{field} is empty" for field in REQUIRED[file].split() if not row[field]]
    faults += [f"{field} is longer than {limit}" for field, limit in LENGTHS.items()
               if len(row.get(field, "")) > limit]
    enums = ENUMS | ({"state": STATES[file]} if file in STATES else {})
    for field, names in enums.items():
        cells = [cell for cell in row.get(field, "").split(";") if cell]
        if len(set(cells)) != len(cells) or not set(cells) <= set(names.split()):
            faults.append(f"{field} is {row[field]}")
    for field, cell in row.items():
        if cell != cell.strip() or "{" in cell or "|" in cell or "\n" in cell:
            faults.append(f"{field} is badly filled: {cell}")
        if MOBILE.search(cell) or IDENTITY.search(cell):
            faults.append(f"{field} has a mobile or identity number: {cell}")
    if row["note"] != NOTE:
        faults.append("the note does not say that the row is synthetic")
    match = re.fullmatch(rf"agencies/([a-z][a-z0-9-]*)/{REGISTERS[file]}/[A-Za-z0-9._-]{{1,64}}",
                         row["name"])
    if not match or match[1] not in agencies:
        return faults + [f"{row['name']} is no name of an agency's record"]
    agency = agencies[match[1]]
    if not re.fullmatch(r"[A-T]\d{0,4}", row.get("sector", "A")):
        faults.append(f"sector {row['sector']} has not the form of GB/T 4754")
    for field in ("cycle_days", "review_cycle_days"):
        if row.get(field) and not 1 <= int(row[field]) <= 3660:
            faults.append(f"{field} is out of range")
    for field, cell in row.items():
        if field.startswith(("casualties.", "direct_loss", "funds_")) and cell and int(cell) < 0:
            faults.append(f"{field} is below zero")
    if file == "measures.csv" and (row["state"] == "PLANNED") != bool(row["due_time"]):
        faults.append("a due time belongs to a planned measure, and to no other")
    faults += unit_faults(row)
    if "place.division" in row:
        faults += place_faults(row, agency, divisions)
    return faults


def unit_faults(row):
    prefix = "unit." if "unit.name" in row else "responsible_unit."
    unit = {field: row[prefix + field] for field in
            ("name", "uscc", "uscc_override_reason", "post", "office_phone")}
    if not any(unit.values()):
        return ["an accident needs its unit"] if row.get("event_class") == "ACCIDENT" else []
    faults = [f"{prefix}{field} is longer than {limit}" for field, limit in UNIT_LENGTHS.items()
              if len(unit[field]) > limit]
    if not unit["name"].endswith("（虚构）"):
        faults.append(f"{unit['name']} is not marked as invented")
    if not re.fullmatch(r"0513-8000\d{4}", unit["office_phone"]):
        faults.append(f"{unit['office_phone']} is outside the sample block")
    fault = codes.fault(unit["uscc"]) if unit["uscc"] else None
    if fault and not (unit["uscc_override_reason"] and "18" in fault.split()[2:3]):
        faults.append(f"{unit['uscc']}: {fault}")
    if unit["uscc_override_reason"] and not fault:
        faults.append(f"{unit['uscc']} needs no override")
    return faults


def place_faults(row, agency, divisions):
    code, faults = row["place.division"], []
    county = agency["divisions"]
    if code not in divisions:
        faults.append(f"division {code} is unknown or retired")
    if code[:6] != county:
        faults.append(f"division {code} is outside the agency's {county}")
    west, east, south, north = BOUNDS[county]
    longitude, latitude = float(row["place.longitude"]), float(row["place.latitude"])
    if not (west <= longitude <= east and south <= latitude <= north):
        faults.append(f"{latitude}, {longitude} is outside {county}")
    full = divisions.get(county, {}).get("name", "")
    if not row["place.address"].removeprefix("南通市").startswith(full):
        faults.append(f"address {row['place.address']} does not begin with {full}")
    return faults


def reference_faults(files):
    """Names that stand twice, and measures that do not fit their risks."""
    faults = []
    for name in ROWS:
        counts = Counter(row["name"] for row in files[name])
        faults += [f"{name}: {item} stands {n} times" for item, n in counts.items() if n > 1]
    risks = {row["name"] for row in files["risks.csv"]}
    measures = files["measures.csv"]
    for row in measures:
        if row["risk"] not in risks or row["risk"].split("/")[1] != row["name"].split("/")[1]:
            faults.append(f"measures.csv: {row['name']} controls no risk of its agency")
    covered = {row["risk"] for row in measures}
    return faults + [f"risks.csv: {name} has no measure" for name in sorted(risks - covered)]


def hazard_faults(files):
    """Hazards that skip a step, name what is not there, or lack what their state asks for."""
    faults, stood = [], {}
    names = {row["name"]: row for row in files["risks.csv"] + files["measures.csv"] + files["hazards.csv"]}
    for row in files["hazards.csv"] + files["hazard-follow-ups.csv"]:
        name, state = row["name"], row["state"]
        before = stood.get(name)
        at_once = before == "REPORTED" and state == "ACCEPTANCE_REQUESTED" and row["treatment"] == "AT_ONCE"
        if not at_once and state not in (NEXT[before].split() if before else ["REPORTED"]):
            faults.append(f"{name}: {state} does not follow {before}")
        stood[name] = state
        for field in ("risk", "measure", "duplicate_of"):
            if row[field] and (row[field] not in names or row[field].split("/")[1] != name.split("/")[1]):
                faults.append(f"{name}: {field} names nothing of its agency")
        if (row["source"] == "MEASURE_FAILED") != bool(row["measure"]):
            faults.append(f"{name}: a measure belongs to MEASURE_FAILED, and to no other source")
        plan = [row[f"rectification.{field}"] for field in
                ("responsibility", "measures", "funds_fen", "deadline", "contingency_plan")]
        if row["level"] == "MAJOR" and not (all(plan) and row["criterion"]):
            faults.append(f"{name}: a major hazard has a criterion and all five elements")
        if state in ("PASSED", "CLOSED") and row["acceptance.passed"] != "true":
            faults.append(f"{name}: {state} without acceptance")
        if row["acceptance.unit"] == row["unit.name"]:
            faults.append(f"{name}: accepted by the unit that puts it right")
    return faults


def report_faults(files):
    """Reports out of order, and times that run backwards."""
    faults, stage, number = [], {}, Counter()
    for row in files["incidents.csv"] + files["incident-follow-ups.csv"]:
        name, kind = row["name"], row["report.kind"]
        number[name] += kind == "FOLLOW_UP"
        if not report_fits(stage.get(name), kind) or int(row["report.number"]) != number[name]:
            faults.append(f"{name}: {kind} {row['report.number']} does not follow")
        after_final = kind == "CORRECTION" and stage.get(name) == "FINAL"
        if (row["report.after_final"] == "true") != after_final:
            faults.append(f"{name}: after_final belongs to a correction of a final report")
        if kind != "CORRECTION":
            stage[name] = kind
        if (kind == "CORRECTION") != bool(row["report.correction_reason"]):
            faults.append(f"{name}: a reason belongs to a correction, and to no other report")
        faults += time_faults(row)
    titles = Counter(row["title"] for row in files["incidents.csv"])
    return faults + [f"incidents.csv: {title} stands twice" for title, n in titles.items() if n > 1]


def report_fits(stage, kind):
    if kind == "FIRST":
        return stage is None
    if kind in ("FOLLOW_UP", "FINAL"):
        return stage in ("FIRST", "FOLLOW_UP")
    return stage is not None


def time_faults(row):
    fields = ("occurred_time", "informed_time", "received_time", "forwarded_time")
    times = [datetime.datetime.fromisoformat(row[field]) for field in fields if row[field]]
    faults = []
    if times != sorted(times) or times[-1].year != 2024:
        faults.append(f"{row['name']}: times run backwards or leave 2024")
    if row["event_class"] == "ACCIDENT" and not row["informed_time"]:
        faults.append(f"{row['name']}: an accident needs the time its unit's head was told")
    return faults
