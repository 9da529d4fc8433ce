"""A Python agency at a running demonstration: submits, retries, lists, watches, and checks the proofs itself.

    python3 tests/clients/client.py FOLDER CITY_PORT COUNTY_PORT

FOLDER is what `hefu demo --data FOLDER` keeps. Needs grpcio, grpcio-tools, grpcio-status, cryptography.
"""

import base64
import hashlib
import pathlib
import sys
import tempfile
import threading
import uuid

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from grpc_status import rpc_status
from google.rpc import error_details_pb2
from grpc_tools import protoc

folder, city_port, county_port = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
root = pathlib.Path(__file__).resolve().parents[2] / "proto"
out = tempfile.mkdtemp()
include = str(pathlib.Path(protoc.__file__).parent / "_proto")
args = ["", f"-I{root}", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}"]
assert protoc.main(args + [str(p) for p in sorted(root.rglob("*.proto"))]) == 0
sys.path.insert(0, out)

from hefu.error.v1 import error_pb2  # noqa: E402
from hefu.ledger.v1 import ledger_pb2, ledger_pb2_grpc  # noqa: E402
from hefu.risk.v1 import risk_pb2, risk_pb2_grpc  # noqa: E402
from hefu.type.v1 import type_pb2  # noqa: E402


def channel(who, port):
    pki = folder / "pki"
    read = lambda name: (pki / name).read_bytes()
    tls = grpc.ssl_channel_credentials(read("ca.pem"), read(f"{who}.key"), read(f"{who}.pem"))
    return grpc.secure_channel(f"localhost:{port}", tls)


def risk(item, **changes):
    fields = dict(
        name=f"agencies/qidong-emergency/risks/{item}", title="测试风险", sector="C2631",
        place=type_pb2.Place(division="320681", address="启东市试验路1号", latitude=31.8, longitude=121.66,
                             datum=type_pb2.DATUM_CGCS2000),
        level=risk_pb2.RISK_LEVEL_MAJOR, state=risk_pb2.RISK_STATE_IDENTIFIED, factor="合成数据",
        consequences=[risk_pb2.CONSEQUENCE_TYPE_FIRE],
        responsible_unit=type_pb2.Unit(name="测试企业（虚构）"), regulator="启东市应急管理局")
    return risk_pb2.Risk(**(fields | changes))


def reason(error):
    """The ErrorInfo's reason and the fields of the BadRequest."""
    info, fields = error_details_pb2.ErrorInfo(), {}
    found = None
    for detail in rpc_status.from_call(error).details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(info):
            found = info.reason
        if detail.Unpack(bad):
            fields = {v.field: v.description for v in bad.field_violations}
    return found, fields


def refused(call, *arguments):
    try:
        call(*arguments)
    except grpc.RpcError as error:
        return (error.code(), *reason(error))
    raise AssertionError("was not refused")


def root_of(leaf, index, size, path):
    """RFC 9162 section 2.1.3.2."""
    node = lambda a, b: hashlib.sha256(b"\x01" + a + b).digest()
    at, last, value = index, size - 1, leaf
    for sibling in path:
        assert last > 0
        if at & 1 or at == last:
            value = node(sibling, value)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            value = node(value, sibling)
        at, last = at >> 1, last >> 1
    assert last == 0
    return value


def checkpoint(note, vkey):
    """A C2SP signed note, checked against the key: size and root."""
    text, lines = note.split("\n\n", 1)
    name, key_id, key = vkey.split("+", 2)
    key = base64.b64decode(key)
    assert key[0] == 1
    assert hashlib.sha256(name.encode() + b"\n" + key).digest()[:4].hex() == key_id
    for line in lines.splitlines():
        _, signer, signature = line.split(" ")
        signature = base64.b64decode(signature)
        if signer == name and signature[:4].hex() == key_id:
            Ed25519PublicKey.from_public_bytes(key[1:]).verify(signature[4:], (text + "\n").encode())
            origin, size, tree = text.split("\n")[:3]
            assert origin == name
            return int(size), base64.b64decode(tree)
    raise AssertionError("not signed")


county = channel("agency-qidong-emergency", county_port)
city = channel("admin-operator", city_port)
risks, above = risk_pb2_grpc.RiskServiceStub(county), risk_pb2_grpc.RiskServiceStub(city)
ledger, ledger_above = (ledger_pb2_grpc.LedgerServiceStub(c) for c in (county, city))
item = f"PY-{uuid.uuid4().hex[:8]}"

# One record, and a retry: the same answer, the same receipt.
request = risk_pb2.SubmitRiskRequest(risk=risk(item), request_id=str(uuid.uuid4()))
first, again = risks.SubmitRisk(request), risks.SubmitRisk(request)
assert first.outcome == again.outcome == type_pb2.OUTCOME_CREATED
assert first.receipt.index == again.receipt.index and first.receipt.leaf_hash == again.receipt.leaf_hash
code, why, _ = refused(risks.SubmitRisk, risk_pb2.SubmitRiskRequest(
    risk=risk(item, title="别的"), request_id=request.request_id))
assert (code, why) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")

# Precise errors: every field, in two languages.
code, why, fields = refused(risks.SubmitRisk, risk_pb2.SubmitRiskRequest(
    risk=risk(item, level=0, title="")))
assert (code, why) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
assert set(fields) == {"risk.level", "risk.title"}, fields
assert "FIELD_INVALID" in [n.removeprefix("ERROR_REASON_") for n in error_pb2.ErrorReason.keys()]

# A list with one bad row: that one is refused alone.
rows = [risk(f"{item}-{n}") for n in range(100)]
rows[42].sector = "?"
messages = [risk_pb2.SubmitRisksRequest(parent="agencies/qidong-emergency/risks", risks=rows[:50]),
            risk_pb2.SubmitRisksRequest(risks=rows[50:])]
answers = list(risks.SubmitRisks(iter(messages)))
results = [row for answer in answers for row in answer.rows]
assert [r.row for r in results if r.outcome == type_pb2.OUTCOME_REFUSED] == [43]
assert results[42].violations[0].field == "risk.sector" and results[42].violations[0].description_zh
assert answers[-1].summary.created == 99

# Pages: no gap, no duplicate.
names, token = [], ""
while True:
    page = risks.ListRisks(risk_pb2.ListRisksRequest(
        parent="agencies/qidong-emergency/risks", page_size=17, page_token=token, filter='title:"测试风险"'))
    names += [r.risk.name for r in page.revisions]
    token = page.next_page_token
    if not token:
        break
assert len(names) == len(set(names)) >= 100

# A watch at the city, resumed from a position, sees what the county takes in.
position = above.ListRisks(risk_pb2.ListRisksRequest(parent="agencies/-/risks", page_size=1)).position
watch = above.WatchRisks(risk_pb2.WatchRisksRequest(
    parent="agencies/-/risks", position=position, filter=f'name = "{risk(item).name}"'))
threading.Timer(0.1, lambda: risks.SubmitRisk(risk_pb2.SubmitRiskRequest(
    risk=risk(item, note="改")))).start()
change = next(c for c in watch if c.HasField("revision"))
assert change.revision.risk.note == "改" and change.revision.info.revision == 2
watch.cancel()
history = risks.ListRiskRevisions(risk_pb2.ListRiskRevisionsRequest(name=risk(item).name))
assert [r.info.revision for r in history.revisions] == [2, 1]

# The proof, with nothing of hefu's: entry, leaf, path, root, signature; at the county and at the city.
for service in (ledger, ledger_above):
    custody = service.GetCustody(ledger_pb2.GetCustodyRequest(name=risk(item).name))
    leaf = hashlib.sha256(b"\x00" + custody.entry.entry_bytes).digest()
    size, tree = checkpoint(custody.checkpoint, custody.log.verifier_key)
    path = [h.value for h in custody.inclusion.hashes]
    assert root_of(leaf, custody.entry.index, size, path) == tree
size, tree = checkpoint(first.receipt.checkpoint, custody.log.verifier_key)
assert first.receipt.index < size
print("python client: passed")
