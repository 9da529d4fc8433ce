"""Counties, agencies, towns and the invented units that the registers speak of."""

import csv
import math
import re
import tomllib
from collections import defaultdict
from pathlib import Path

import codes
from dice import Dice

HERE = Path(__file__).resolve().parent
MARK = "（虚构）"

# Places of 山海经, the Classic of Mountains and Seas, so that no name is meant for a real firm.
BRANDS = """招摇 堂庭 猨翼 杻阳 柢山 亶爰 基山 青丘 箕尾 柜山 长右 尧光 句余 浮玉 仆勾 咸阴 洵山 漆吴 天虞
祷过 丹穴 发爽 旄山 令丘 仑者 禺稿 南禺 钱来 松果 符禺 石脆 羭次 大时 嶓冢 皋涂 翠山 騩山
钤山 泰冒 数历 女床 龙首 鸟危 崇吾 不周 峚山 泰器 槐江 乐游 蠃母 积石 长留 章莪 符惕 泑山 翼望 鹿吴
区吴 尸胡 诸钩 中父 胡射 踇隅 无皋 北号 枸状 勃齐 番条 姑儿 诸绳 豺山 竹水 曹夕
峄皋 葛山 余峨 耿山 卢其 姑射 碧山 姑逢 凫丽 硜山""".split()
ROADS = ["创业路", "兴业路", "人民路", "中心街", "工业一路", "工业二路", "纬三路", "经五路", "滨河路", "富民路"]
# Two codes whose last character is wrong, with the recorded reason that the gateway asks for.
MISISSUED = (74, 414)
REASON = "证照所载即为此码，末位与 GB 32100 不符，已凭证照复印件核实（合成示例）"


def load_toml(name):
    with open(HERE / "bank" / name, "rb") as file:
        return tomllib.load(file)


def load_csv(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


class World:
    """Everything that records refer to; units are invented when they are first asked for."""

    def __init__(self):
        bank = load_toml("agencies.toml")
        self.bank = bank
        self.counties = {county["node"]: county for county in bank["county"]}
        self.towns = {row["code"]: row for row in load_csv(HERE / "bank" / "towns.csv")}
        self.villages = defaultdict(list)
        live = [row for row in load_csv(HERE / "divisions.csv") if not row["valid_to"]]
        for row in sorted(live, key=lambda row: row["code"]):
            if row["level"] == "village" and row["code"][9] < "4":
                self.villages[row["parent_code"]].append(row)
        self._serial = 0
        self._names = set()

    def agencies(self):
        """Rows of agencies.csv, the city's last."""
        rows = []
        for county in self.bank["county"]:
            kind = "zone-bureau" if county["node"] in self.bank["stand-in"] else "county-department"
            for department in county["departments"]:
                rows.append({
                    "id": f"{county['slug']}-{department}",
                    "name": self._agency_name(county, department),
                    "divisions": county["code"], "kind": kind, "node": county["node"],
                })
        for department, name in self.bank["city"].items():
            rows.append({"id": f"nantong-{department}", "name": "南通市" + name,
                         "divisions": "320600", "kind": "city-department", "node": "nantong"})
        return rows

    def _agency_name(self, county, department):
        name = self.bank["department"][department]
        if county["node"] in self.bank["stand-in"]:
            name = self.bank["zone-name"].get(department, name)
        return county["full"] + name

    def agency(self, node, department):
        """The agency of a county that a department's hazards fall to: its id and name."""
        county = self.counties[node]
        department = self.bank["stand-in"].get(node, {}).get(department, department)
        if department not in county["departments"]:
            raise ValueError(f"{node} has no department {department}")
        return f"{county['slug']}-{department}", self._agency_name(county, department)

    def county_towns(self, node):
        return [code for code in self.towns if code.startswith(self.counties[node]["code"])]

    def place(self, node, town, dice):
        """A place in a town: mostly in a village of it. Points stay within the town's radius."""
        villages = self.villages[town]
        village = dice.pick(villages) if villages and dice.fraction() < 0.65 else None
        centre = self._offset(town, Dice("village", village["code"]), 0.75) if village else (0, 0)
        spread = self._offset(town, dice, 0.25 if village else 0.9)
        row, county = self.towns[town], self.counties[node]
        address = county["full"] + row["name"] + (village_name(village["name"]) if village else "")
        return {
            "division": village["code"] if village else town,
            "address": f"{address}{dice.pick(ROADS)}{1 + dice.below(288)}号",
            "latitude": f"{float(row['latitude']) + centre[0] + spread[0]:.4f}",
            "longitude": f"{float(row['longitude']) + centre[1] + spread[1]:.4f}",
            "datum": "CGCS2000",
        }

    def area(self, node, town):
        """A whole town, by its centre: for what strikes more than one address."""
        row = self.towns[town]
        return {"division": town, "address": self.counties[node]["full"] + row["name"] + "境内",
                "latitude": row["latitude"], "longitude": row["longitude"], "datum": "CGCS2000"}

    def _offset(self, town, dice, share):
        distance = float(self.towns[town]["radius_km"]) * share * math.sqrt(dice.fraction())
        angle = 2 * math.pi * dice.fraction()
        return distance * math.sin(angle) / 111.0, distance * math.cos(angle) / 94.0

    def unit(self, node, kind, prefix, dice):
        """A new invented unit; no prefix means that it has no credit code."""
        self._serial += 1
        county = self.counties[node]
        brand = next(brand for brand in dice.shuffled(BRANDS)
                     if (node, brand, kind) not in self._names)
        self._names.add((node, brand, kind))
        uscc, reason = "", ""
        if prefix:
            division = county["code"] if node not in self.bank["stand-in"] else "320600"
            uscc = codes.credit_code(prefix, division, self._serial)
            if self._serial in MISISSUED:
                uscc, reason = codes.misissued(uscc), REASON
        return {"name": f"{county['short']}{brand}{kind}{MARK}", "brand": brand, "uscc": uscc,
                "uscc_override_reason": reason, "office_phone": f"0513-8000{self._serial:04d}"}


def village_name(name):
    """进鲜港村委会 is the committee of 进鲜港村."""
    name = re.sub(r"[（(].*[）)]$", "", name)
    for suffix, kind in (("村民委员会", "村"), ("村委会", "村"), ("居民委员会", "社区"), ("居委会", "社区")):
        if name.endswith(suffix):
            stem = name[: -len(suffix)]
            return stem if stem.endswith(("村", "社区", "街", "路", "新村", "园")) else stem + kind
    return name
