"""An auditor in Python: receipts, custody, checkpoints and cosignatures, at the county and at the city."""

import time

import pytest
from conftest import risk
from hefu.ledger.v1.ledger_pb2 import (
    GetCheckpointRequest, GetConsistencyProofRequest, GetCustodyRequest, GetInclusionProofRequest, ListLogsRequest)
from hefu.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from hefu.node.v1.node_pb2 import RotateKeyRequest
from hefu.node.v1.node_pb2_grpc import NodeServiceStub
from hefu.risk.v1.risk_pb2 import Risk, SubmitRiskRequest
from hefu.risk.v1.risk_pb2_grpc import RiskServiceStub
from proof import (
    Key, KeyChange, NotProven, check_by_history, check_checkpoint, check_consistency, check_cosignature, check_history,
    check_inclusion, leaf_hash)


def values(digests):
    return [digest.value for digest in digests]


def own_key(ledger):
    (own,) = [log for log in ledger.ListLogs(ListLogsRequest()).logs if log.own]
    return Key.parse(own.verifier_key)


@pytest.fixture
def ledgers(county, city):
    return LedgerServiceStub(county), LedgerServiceStub(city)


@pytest.fixture
def receipt(county, item):
    return RiskServiceStub(county).SubmitRisk(SubmitRiskRequest(risk=risk(item))).receipt


def cosigned(ledger, name):
    """Custody, once someone above has cosigned the record: within ten seconds."""
    end = time.monotonic() + 10
    while not (custody := ledger.GetCustody(GetCustodyRequest(name=name))).cosignatures:
        assert time.monotonic() < end, "nobody has cosigned it"
        time.sleep(0.05)
    return custody


def test_a_receipt_holds_against_the_county(ledgers, receipt):
    here, _ = ledgers
    signed = check_checkpoint(receipt.checkpoint, own_key(here))
    assert signed.origin == receipt.log and receipt.index < signed.size
    proof = here.GetInclusionProof(GetInclusionProofRequest(index=receipt.index, size=signed.size))
    arguments = [receipt.leaf_hash.value, receipt.index, signed.size, values(proof.hashes), signed.root]
    check_inclusion(*arguments)
    # The check can fail: another leaf, another place, a path with a bit flipped, another root.
    for at, wrong in ((0, leaf_hash(b"")), (1, receipt.index - 1), (4, leaf_hash(b""))):
        with pytest.raises(NotProven):
            check_inclusion(*arguments[:at], wrong, *arguments[at + 1:])
    flipped = [bytes([arguments[3][0][0] ^ 1]) + arguments[3][0][1:], *arguments[3][1:]]
    with pytest.raises(NotProven):
        check_inclusion(*arguments[:3], flipped, signed.root)


def test_a_changed_checkpoint_is_not_believed(ledgers, receipt):
    key = own_key(ledgers[0])
    size = check_checkpoint(receipt.checkpoint, key).size
    with pytest.raises(NotProven):
        check_checkpoint(receipt.checkpoint.replace(f"\n{size}\n", f"\n{size + 1}\n", 1), key)
    with pytest.raises(NotProven):
        check_checkpoint(receipt.checkpoint, own_key(ledgers[1]))


@pytest.mark.parametrize("at", ["county", "city"])
def test_custody_is_proven_at(at, ledgers, receipt, item):
    here, above = ledgers
    cosigned(here, risk(item).name)
    custody = cosigned(here if at == "county" else above, risk(item).name)
    # The record is in the entry, the entry in the tree, the tree signed by the county.
    assert custody.entry.index == receipt.index
    assert Risk.FromString(custody.entry.entry.record) == risk(item)
    assert risk(item).SerializeToString() in custody.entry.entry_bytes
    leaf = leaf_hash(custody.entry.entry_bytes)
    assert leaf == receipt.leaf_hash.value
    key = own_key(here)
    signed = check_checkpoint(custody.checkpoint, key)
    check_inclusion(leaf, custody.entry.index, signed.size, values(custody.inclusion.hashes), signed.root)
    # The city cosigned it, with the key that it signs its own log with.
    (cosignature,) = [each for each in custody.cosignatures if each.node == "nantong"]
    cosigner = Key.parse(cosignature.verifier_key)
    assert cosigner.raw == own_key(above).raw
    assert check_cosignature(cosignature.note, cosigner) == cosignature.time.seconds
    covered = check_checkpoint(cosignature.note, key)
    assert covered.size == cosignature.size > receipt.index
    proof = here.GetInclusionProof(GetInclusionProofRequest(index=receipt.index, size=covered.size))
    check_inclusion(leaf, receipt.index, covered.size, values(proof.hashes), covered.root)


def test_the_log_only_grew(ledgers, county, receipt, item):
    here, above = ledgers
    old = check_checkpoint(receipt.checkpoint, own_key(here))
    for number in range(5):
        RiskServiceStub(county).SubmitRisk(SubmitRiskRequest(risk=risk(f"{item}-{number}")))
    cosigned(here, risk(f"{item}-4").name)
    for ledger in ledgers:
        newest = ledger.GetCheckpoint(GetCheckpointRequest(origin=receipt.log)).checkpoint
        new = check_checkpoint(newest, own_key(here))
        assert new.size >= old.size + 5
        proof = ledger.GetConsistencyProof(GetConsistencyProofRequest(
            origin=receipt.log, old_size=old.size, new_size=new.size))
        check_consistency(old.size, old.root, new.size, new.root, values(proof.hashes))
        with pytest.raises(NotProven):
            check_consistency(old.size, leaf_hash(b""), new.size, new.root, values(proof.hashes))


def test_a_key_that_was_trusted_leads_to_the_one_in_force(city, ledgers):
    _, there = ledgers
    trusted, before = own_key(there), there.GetCheckpoint(GetCheckpointRequest()).checkpoint
    NodeServiceStub(city).RotateKey(RotateKeyRequest())
    answer = there.GetCheckpoint(GetCheckpointRequest())
    changes = list(answer.log.key_changes)
    at = [KeyChange.parse(change).old for change in changes].index(trusted)
    keys = check_history(trusted, changes[at:])
    assert keys[-1] == (Key.parse(answer.log.verifier_key), None) and keys[-1][0] != trusted
    for checkpoint in (before, answer.checkpoint):
        assert check_by_history(checkpoint, keys).origin == trusted.name
    # Without the change, the new key is a stranger's.
    with pytest.raises(NotProven):
        check_by_history(answer.checkpoint, keys[:-1])
    with pytest.raises(NotProven):
        check_history(keys[-1][0], changes[at:])
