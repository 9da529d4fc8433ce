"""The rows of the three registers, from the banks and the world."""

import datetime
from collections import Counter, defaultdict

from dice import Dice, apportion
from world import load_toml

NOTE = "合成数据，非真实记录"
MEASURE_TOTAL = 1801
REVIEW_DAYS = {"LOW": 365, "GENERAL": 180, "LARGER": 90, "MAJOR": 30}
# A first list is long at its lower end.
LEVEL_BIAS = [1.4, 1.0, 0.55, 0.8]
MEASURES_OF = {"LOW": 1, "GENERAL": 1, "LARGER": 2, "MAJOR": 3}
CLASSES = {"E": "ENGINEERING", "M": "MAINTENANCE", "O": "OPERATION", "R": "EMERGENCY"}
DUE = ["2025-01-31", "2025-03-31", "2025-05-31", "2025-06-30", "2025-09-30", "2025-12-31"]
EVIDENCE = {
    "E": ["竣工验收单第{n}号", "改造验收记录第{n}号及照片", "检测报告（样）第{n}号", "调试记录第{n}号"],
    "M": ["维护保养记录第{n}号", "点检表第{n}页", "检验记录（样）第{n}号", "巡检台账第{n}页"],
    "O": ["操作规程修订单第{n}号", "现场检查记录第{n}号", "培训签到表第{n}号", "班前会记录第{n}页"],
    "R": ["演练评估报告第{n}号", "应急物资台账第{n}页", "演练签到表第{n}号及影像", "现场处置方案第{n}号"],
}
SIGNED = {"FIRST": "值班主任", "FOLLOW_UP": "应急指挥中心主任", "FINAL": "分管副局长",
          "CORRECTION": "信息科科长"}
NUMERALS = "零一二三四五"
CLASSES_OF_EVENT = {"11": "NATURAL_DISASTER", "12": "ACCIDENT"}
PEOPLE = ["deaths", "missing", "serious_injuries", "slight_injuries", "evacuated"]


def under(prefix, message, fields):
    return {f"{prefix}.{field}": message.get(field, "") for field in fields}


UNIT = ["name", "uscc", "uscc_override_reason", "post", "office_phone"]
PLACE = ["division", "address", "latitude", "longitude", "datum"]


def hazards():
    """The bank of hazards. A factor that fits only some sites names them, instead of the hazard."""
    bank = load_toml("hazards-industry.toml")["hazard"] + load_toml("hazards-public.toml")["hazard"]
    for hazard in bank:
        hazard["factors"] = [factor if isinstance(factor, dict) else
                             {"sites": hazard["sites"], "text": factor}
                             for factor in hazard["factors"]]
        named = [site for factor in hazard["factors"] for site in factor["sites"]]
        hazard["sites"] = list(dict.fromkeys(named))
    return bank


def registration(hazard, dice):
    """The first two characters of a unit's credit code; small traders may have none."""
    if hazard.get("no_code") and dice.below(hazard["no_code"]) == 0:
        return ""
    return hazard.get("code", "91")


class Pool:
    """The units of one county that share a kind of hazard; each stands for one or two risks."""

    def __init__(self, world, node, hazard, count):
        dice = Dice("pool", node, hazard.get("group", hazard["id"]))
        towns = hazard.get("towns", {}).get(node) or world.county_towns(node)
        order = []
        while len(order) < count:
            order += dice.shuffled(towns)
        self.units = []
        for town in order[:count]:
            kind = dice.pick(hazard["kinds"])
            unit = world.unit(node, kind, registration(hazard, dice), dice)
            self.units.append(unit | {"place": world.place(node, town, dice)})
        self._next = 0
        self._taken = set()

    def take(self, hazard, dice):
        """A unit and one of the hazard's sites, never the same pair twice."""
        for site in dice.shuffled(hazard["sites"]):
            for step in range(len(self.units)):
                index = (self._next + step) % len(self.units)
                if (index, hazard["id"], site) not in self._taken:
                    self._taken.add((index, hazard["id"], site))
                    self._next = index + 1
                    return self.units[index], site
        raise ValueError(f"too few units for {hazard['id']}")


def risks(world):
    """Rows of risks.csv, each with its hazard, site and unit for the measures."""
    bank, rows, pools, numbers = hazards(), [], {}, Counter()
    for node, county in world.counties.items():
        here = [hazard for hazard in bank if hazard["counties"].get(node)]
        counts = apportion(county["risks"], [hazard["counties"][node] for hazard in here])
        for hazard, count in zip(here, counts):
            key = node, hazard.get("group", hazard["id"])
            if key not in pools:
                pools[key] = Pool(world, node, hazard, max(1, round(count / 1.6)))
            for index in range(count):
                dice = Dice("risk", node, hazard["id"], index)
                unit, site = pools[key].take(hazard, dice)
                rows.append(risk(world, node, hazard, unit, site, numbers, dice))
    return sorted(rows, key=lambda row: row["name"])


def risk(world, node, hazard, unit, site, numbers, dice):
    agency, regulator = world.agency(node, hazard["department"])
    numbers[agency] += 1
    level = dice.weighted(list(REVIEW_DAYS), [a * b for a, b in zip(hazard["levels"], LEVEL_BIAS)])
    factors = [factor["text"] for factor in hazard["factors"] if site in factor["sites"]]
    row = {
        "name": f"agencies/{agency}/risks/R-2024-{numbers[agency]:04d}",
        "title": f"{unit['brand']}·" + dice.fill(hazard["title"], site),
        "sector": hazard["sector"],
        "level": level,
        "state": dice.weighted(["IDENTIFIED", "REVIEWED", "CONTROLLED"], [13, 25, 62]),
        "factor": dice.fill(dice.pick(factors), site),
        "consequences": ";".join(hazard["consequences"]),
        "basis": hazard["basis"],
        "regulator": regulator,
        "review_cycle_days": REVIEW_DAYS[level],
        "note": NOTE,
        "_hazard": hazard, "_unit": unit, "_site": site,
    }
    row |= under("place", unit["place"], PLACE)
    return row | under("responsible_unit", unit | {"post": dice.pick(hazard["posts"])}, UNIT)


def measure_counts(rows):
    """How many measures each risk gets: more for the higher levels, MEASURE_TOTAL in all."""
    counts = [MEASURES_OF[row["level"]] for row in rows]
    dice, missing = Dice("measure-counts"), MEASURE_TOTAL - sum(counts)
    order = dice.shuffled(range(len(rows)))
    if missing < 0:
        raise ValueError("the levels ask for more measures than there are")
    order.sort(key=lambda i: rows[i]["level"] == "LOW")
    for i in order:
        if missing and counts[i] < 4:
            counts[i] += 1
            missing -= 1
    return counts


def measures(rows):
    """Rows of measures.csv."""
    numbers, out = Counter(), []
    for row, count in zip(rows, measure_counts(rows)):
        agency = row["name"].split("/")[1]
        dice = Dice("measures", row["name"])
        chosen = dice.shuffled(row["_hazard"]["measures"])[:count]
        for kind, cycle, funds, text in chosen:
            numbers[agency] += 1
            item = f"M-2024-{numbers[agency]:04d}"
            out.append(measure(row, f"agencies/{agency}/measures/{item}", kind, cycle, funds, text, dice))
    return out


def measure(row, name, kind, cycle, funds, text, dice):
    early = row["state"] == "IDENTIFIED"
    state = dice.weighted(["IN_PLACE", "PLANNED", "FAILED"], [25, 75, 0] if early else [86, 11, 3])
    due = f"{dice.pick(DUE)}T18:00:00+08:00" if state == "PLANNED" else ""
    number = 1 + dice.below(480)
    evidence = dice.pick(EVIDENCE[kind]).format(n=number)
    if state == "PLANNED":
        evidence = f"整改计划表第{number}项"
    elif state == "FAILED":
        evidence = f"{evidence}；2024年{7 + dice.below(6)}月复查发现失效"
    # Rounded to 100 yuan, from 0.6 to 1.4 of the bank's figure.
    yuan = round(funds * (0.6 + 0.8 * dice.fraction()) / 100) * 100
    unit = row["_unit"] | {"post": dice.pick(row["_hazard"]["posts"])}
    return {
        "name": name, "risk": row["name"], "measure_class": CLASSES[kind],
        "description": dice.fill(text, row["_site"]), "cycle_days": cycle or "", "due_time": due,
        "funds_fen": yuan * 100 or "", "evidence": evidence, "state": state, "note": NOTE,
    } | under("responsible_unit", unit, UNIT)


def incidents(world):
    """Rows of incidents.csv and of incident-follow-ups.csv."""
    owners = {agency["id"]: agency["node"] for agency in world.agencies()}
    numbers, firsts, laters = Counter(), [], []
    for case in load_toml("incidents.toml")["incident"]:
        agency = case["agency"]
        numbers[agency] += 1
        name = f"agencies/{agency}/incidents/I-2024-{numbers[agency]:03d}"
        row = first_report(world, owners[agency], name, case)
        firsts.append(row)
        number, final = 0, False
        for change in case["later"]:
            number += change["kind"] == "FOLLOW_UP"
            row = later_report(row, change, number, final)
            final |= change["kind"] == "FINAL"
            laters.append(row)
    return firsts, laters


def first_report(world, node, name, case):
    dice = Dice("incident", case["title"])
    sample = case["type"].startswith("~")
    row = {
        "name": name, "title": case["title"],
        "event_class": case.get("class") or CLASSES_OF_EVENT.get(case["type"][:2], "ACCIDENT"),
        "event_type.scheme": "hefu-sample" if sample else "GB/T 35561-2017",
        "event_type.code": case["type"].lstrip("~"),
        "course": case["course"], "measures_taken": case["taken"], "note": NOTE,
    } | report("FIRST", 0) | times(case) | losses(case)
    if "unit" in case:
        unit = world.unit(node, case["unit"], case.get("prefix", "91"), dice)
        row |= under("unit", unit | {"post": "主要负责人岗"}, UNIT)
        return row | under("place", world.place(node, case["town"], dice), PLACE)
    return row | under("unit", {}, UNIT) | under("place", world.area(node, case["town"]), PLACE)


def later_report(row, change, number, final):
    """The next whole report: the one before it with what changed."""
    kind = change["kind"]
    heading = {"FOLLOW_UP": f"续报{NUMERALS[number]}", "FINAL": "终报", "CORRECTION": "更正"}[kind]
    row = row | report(kind, number, change.get("reason", ""), final)
    row |= losses(change)
    row["course"] += f"【{heading}】{change['text']}"
    if "taken" in change:
        row["measures_taken"] += f"【{heading}】{change['taken']}"
    if "forwarded" in change:
        row["forwarded_time"] = change["forwarded"] + ":00+08:00"
    return row


def report(kind, number, reason="", after_final=False):
    return {"report.kind": kind, "report.number": number, "report.signed_off_by": SIGNED[kind],
            "report.correction_reason": reason, "report.after_final": "true" if after_final else ""}


def times(case):
    """Each hop's time, counted in minutes from the one before; -1 leaves a time out."""
    moment = datetime.datetime.fromisoformat(case["occurred"] + ":00+08:00")
    row = {"occurred_time": moment.isoformat()}
    for field, minutes in zip(("informed_time", "received_time", "forwarded_time"), case["minutes"]):
        if minutes >= 0:
            moment += datetime.timedelta(minutes=minutes)
        row[field] = moment.isoformat() if minutes >= 0 else ""
    return row


def losses(source):
    """Casualties and loss, where the source names them; -1 is not known."""
    row = {}
    if "people" in source:
        for field, count in zip(PEOPLE, source["people"]):
            row[f"casualties.{field}"] = count if count >= 0 else ""
    if "loss" in source:
        row["direct_loss_fen"] = source["loss"] * 100 if source["loss"] >= 0 else ""
    return row
