"""The rows of the hazard register: first reports, and what became of them."""

import datetime

from dice import Dice
from registers import NOTE, PLACE, UNIT, under

EVERY = 4
SOURCES = ["DAILY_CHECK", "CAMPAIGN", "SUPERVISION", "ENFORCEMENT", "PREMISES_PATROL", "SHARED_SITE",
           "CHEMICAL", "PUBLIC"]
WEIGHTS = [34, 14, 6, 18, 12, 5, 6, 5]
RECTIFICATION = ["responsibility", "measures", "funds_fen", "funds_approximate", "deadline",
                 "contingency_plan"]
ACCEPTANCE = ["unit", "post", "time", "comment", "passed"]
STEPS = ["REPORTED", "CONFIRMED", "RECTIFYING", "ACCEPTANCE_REQUESTED", "PASSED", "CLOSED"]
# The one that the demonstration follows: it fails its first acceptance.
SHOWN = "agencies/qidong-emergency/hazards/H-2024-001"
DUPLICATES = 12


def hazards(risks, measures):
    """Rows of hazards.csv and of hazard-follow-ups.csv."""
    failed = {row["risk"]: row for row in measures if row["state"] == "FAILED"}
    numbers, firsts, laters = {}, [], []
    for index, risk in enumerate(risks):
        if index % EVERY and risk["name"] not in failed:
            continue
        agency = risk["name"].split("/")[1]
        numbers[agency] = numbers.get(agency, 0) + 1
        name = f"agencies/{agency}/hazards/H-2024-{numbers[agency]:03d}"
        row = first(name, risk, failed.get(risk["name"]))
        firsts.append(row)
        laters += later(row)
    again = duplicates(firsts, numbers)
    return sorted(firsts + again, key=lambda row: row["name"]), laters


def moment(dice, start=datetime.date(2024, 1, 8), days=330):
    day = start + datetime.timedelta(days=dice.below(days))
    return datetime.datetime.combine(day, datetime.time(8 + dice.below(9), dice.below(60)),
                                     datetime.timezone(datetime.timedelta(hours=8)))


def first(name, risk, failed):
    dice = Dice("hazard", name)
    shown = name == SHOWN
    major = shown or (risk["level"] == "MAJOR" and dice.below(3) == 0)
    found = moment(dice)
    what = dice.fill(dice.pick(risk["_hazard"]["measures"])[3], risk["_site"])
    source = "MEASURE_FAILED" if failed else dice.weighted(SOURCES, WEIGHTS)
    at_once = not major and not failed and dice.below(3) == 0
    row = {
        "name": name, "title": f"{risk['_unit']['brand']}·{risk['_site']}{'措施失效' if failed else '措施未落实'}",
        "level": "MAJOR" if major else "GENERAL", "source": source,
        "treatment": "AT_ONCE" if at_once else "BY_DEADLINE",
        "description": f"现场检查发现：{risk['_site']}未按要求落实“{failed['description'] if failed else what}”",
        "criterion": "危及人身安全且需停产停用整改，符合重大事故隐患判定标准（合成示例）" if major else "",
        "found_time": found.isoformat(), "risk": risk["name"],
        "measure": failed["name"] if failed else "", "duplicate_of": "", "state": "REPORTED", "note": NOTE,
        "rectified_time": "", "closing_document": "",
    } | under("acceptance", {}, ACCEPTANCE)
    row |= {field: risk[field] for field in (f"place.{part}" for part in PLACE)}
    row |= under("unit", risk["_unit"] | {"post": risk["responsible_unit.post"]}, UNIT)
    row["_found"], row["_plan"] = found, plan(row, what, found, dice)
    return row | (row["_plan"] if major else under("rectification", {}, RECTIFICATION))


def plan(row, what, found, dice):
    """The five elements."""
    days = dice.pick([15, 30, 60, 90])
    due = (found + datetime.timedelta(days=days)).replace(hour=18, minute=0)
    return under("rectification", {
        "responsibility": f"{row['unit.name']}{row['unit.post']}", "measures": what,
        "funds_fen": (1 + dice.below(80)) * 500_000, "funds_approximate": "true",
        "deadline": due.isoformat(),
        "contingency_plan": "整改期间停用相关设施，专人值守，异常时立即撤离并报告",
    }, RECTIFICATION)


def later(row):
    """The revisions behind a first report, up to where the hazard stands."""
    dice = Dice("hazard-later", row["name"])
    shown = row["name"] == SHOWN
    reached = 5 if shown else dice.weighted([0, 1, 2, 3, 4, 5], [42, 8, 18, 6, 6, 20])
    steps = STEPS[1:reached + 1]
    if row["treatment"] == "AT_ONCE":
        steps = [step for step in steps if step not in ("CONFIRMED", "RECTIFYING")]
    out, now = [], row["_found"]
    for step in steps:
        now += datetime.timedelta(days=1 + dice.below(6), hours=dice.below(4))
        row = advance(row, step, now, True)
        out.append(row)
        if shown and step == "ACCEPTANCE_REQUESTED":
            now += datetime.timedelta(days=2)
            out.append(advance(row, "RECTIFYING", now, False))
            now += datetime.timedelta(days=3)
            row = advance(out[-1], "ACCEPTANCE_REQUESTED", now, True)
            out.append(row)
    return out


def advance(row, step, now, passed):
    row = row | {"state": step}
    if step == "RECTIFYING" and row["treatment"] == "BY_DEADLINE":
        row |= row["_plan"]
    if step == "ACCEPTANCE_REQUESTED":
        row["rectified_time"] = now.isoformat()
    if step == "PASSED" or not passed:
        comment = "现场复查，整改到位，同意通过验收" if passed else "联锁试验未通过，退回继续整改"
        row |= under("acceptance", {"unit": "县级验收组（样）", "post": "验收组组长", "time": now.isoformat(),
                                    "comment": comment, "passed": "true" if passed else ""}, ACCEPTANCE)
    if step == "CLOSED" and row["level"] == "MAJOR":
        row["closing_document"] = f"样销〔2024〕{1 + Dice('closing', row['name']).below(90)}号"
    return row


def duplicates(firsts, numbers):
    """The same hazards, reported again through another channel."""
    out = []
    for row in firsts[5::len(firsts) // DUPLICATES][:DUPLICATES]:
        agency = row["name"].split("/")[1]
        numbers[agency] += 1
        out.append(row | {
            "name": f"agencies/{agency}/hazards/H-2024-{numbers[agency]:03d}",
            "source": "PUBLIC" if row["source"] != "PUBLIC" else "ENFORCEMENT", "measure": "",
            "duplicate_of": row["name"],
            "found_time": (row["_found"] + datetime.timedelta(days=1)).isoformat(),
        })
    return out
