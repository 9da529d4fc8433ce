"""An agency's system: submits, retries, lists, reads the history, watches."""

import time
import uuid

import grpc
import pytest
from conftest import PARENT, refused, risk
from hefu.error.v1 import error_pb2
from hefu.risk.v1.risk_pb2 import (
    RISK_LEVEL_LOW, GetRiskRequest, ListRiskRevisionsRequest, ListRisksRequest, SubmitRiskRequest,
    SubmitRisksRequest, WatchRisksRequest, WithdrawRiskRequest)
from hefu.risk.v1.risk_pb2_grpc import RiskServiceStub
from hefu.type.v1.type_pb2 import (
    OUTCOME_CREATED, OUTCOME_REFUSED, OUTCOME_REVISED, OUTCOME_UNCHANGED, OUTCOME_WITHDRAWN, CompleteList)


@pytest.fixture
def risks(county):
    return RiskServiceStub(county)


@pytest.fixture
def above(city):
    return RiskServiceStub(city)


def names(service, **query):
    """Every name of a list, page by page."""
    found, token = [], ""
    while True:
        page = service.ListRisks(ListRisksRequest(page_token=token, **query))
        found += [each.risk.name for each in page.revisions]
        if not (token := page.next_page_token):
            return found


def changes(watch):
    return (change for change in watch if change.HasField("revision"))


def test_a_record_is_created_revised_unchanged_and_withdrawn(risks, item):
    first = risks.SubmitRisk(SubmitRiskRequest(risk=risk(item)))
    assert first.outcome == OUTCOME_CREATED and first.info.revision == 1
    assert risks.SubmitRisk(SubmitRiskRequest(risk=risk(item))).outcome == OUTCOME_UNCHANGED
    changed = risks.SubmitRisk(SubmitRiskRequest(risk=risk(item, title="改"), etag=first.info.etag))
    assert changed.outcome == OUTCOME_REVISED and changed.info.revision == 2
    stale = refused(risks.SubmitRisk, SubmitRiskRequest(risk=risk(item), etag=first.info.etag))
    assert (stale.code, stale.reason) == (grpc.StatusCode.ABORTED, "ETAG_STALE")
    gone = risks.WithdrawRisk(WithdrawRiskRequest(name=risk(item).name, reason="装置停用"))
    assert gone.outcome == OUTCOME_WITHDRAWN
    history = risks.ListRiskRevisions(ListRiskRevisionsRequest(name=risk(item).name)).revisions
    assert [each.info.revision for each in history] == [3, 2, 1]
    assert [each.info.withdrawn for each in history] == [True, False, False]
    assert history[-1].risk == risk(item)
    assert {each.info.submitter for each in history} == {"spiffe://nantong.gov.cn/agency/qidong-emergency"}


def test_a_retry_gets_the_first_answer(risks, item):
    request = SubmitRiskRequest(risk=risk(item), request_id=str(uuid.uuid4()))
    first, again = risks.SubmitRisk(request), risks.SubmitRisk(request)
    assert first.outcome == again.outcome == OUTCOME_CREATED
    for of in (lambda r: r.log, lambda r: r.index, lambda r: r.leaf_hash, lambda r: r.time):
        assert of(first.receipt) == of(again.receipt)
    request.risk.title = "别的"
    reused = refused(risks.SubmitRisk, request)
    assert (reused.code, reused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


def test_a_dry_run_writes_nothing(risks, item):
    answer = risks.SubmitRisk(SubmitRiskRequest(risk=risk(item), validate_only=True))
    assert answer.outcome == OUTCOME_CREATED and not answer.HasField("receipt")
    absent = refused(risks.GetRisk, GetRiskRequest(name=risk(item).name))
    assert (absent.code, absent.reason) == (grpc.StatusCode.NOT_FOUND, "RECORD_NOT_FOUND")


def test_errors_name_every_field_in_two_languages(risks, item):
    bad = refused(risks.SubmitRisk, SubmitRiskRequest(risk=risk(item, level=0, title="", sector="?")))
    assert (bad.code, bad.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert set(bad.fields) == {"risk.level", "risk.title", "risk.sector"}
    assert bad.fields["risk.title"] == "REQUIRED"
    assert bad.locales >= {"en", "zh-CN"}
    assert f"ERROR_REASON_{bad.reason}" in error_pb2.ErrorReason.keys()


def test_what_a_caller_may_not_do(risks, above, stranger, item):
    other = refused(risks.SubmitRisk, SubmitRiskRequest(risk=risk(item, agency="rudong-emergency")))
    assert (other.code, other.reason) == (grpc.StatusCode.PERMISSION_DENIED, "AGENCY_MISMATCH")
    admin = refused(above.SubmitRisk, SubmitRiskRequest(risk=risk(item)))
    assert (admin.code, admin.reason) == (grpc.StatusCode.PERMISSION_DENIED, "METHOD_NOT_ALLOWED")
    with pytest.raises(grpc.RpcError) as caught:
        RiskServiceStub(stranger).GetRisk(GetRiskRequest(name=risk(item).name))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_list_is_taken_row_by_row(risks, item):
    rows = [risk(f"{item}-{number:03}") for number in range(100)]
    rows[42].sector = "?"
    parts = [SubmitRisksRequest(parent=PARENT, risks=rows[:50]), SubmitRisksRequest(risks=rows[50:])]
    answers = list(risks.SubmitRisks(iter(parts)))
    results = [row for answer in answers for row in answer.rows]
    assert [row.row for row in results] == list(range(1, 101))
    bad = [row for row in results if row.outcome == OUTCOME_REFUSED]
    assert [row.row for row in bad] == [43]
    assert [each.field for each in bad[0].violations] == ["risk.sector"] and bad[0].violations[0].description_zh
    assert (answers[-1].summary.created, answers[-1].summary.refused) == (99, 1)
    again = list(risks.SubmitRisks(iter(parts)))[-1].summary
    assert (again.unchanged, again.created, again.revised) == (99, 0, 0)
    # One row short of what it says: nothing is withdrawn.
    short = SubmitRisksRequest(parent=PARENT, risks=rows[:1], complete=CompleteList(row_count=2))
    cut = [None]
    with pytest.raises(grpc.RpcError) as caught:
        cut = list(risks.SubmitRisks(iter([short])))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION, cut
    assert len(names(risks, parent=PARENT, filter=f'title:"测试风险" AND name:"{item}-"')) == 99


def test_pages_have_no_gap_and_no_duplicate(risks, item):
    rows = [risk(f"{item}-{number:02}", level=RISK_LEVEL_LOW) for number in range(40)]
    list(risks.SubmitRisks(iter([SubmitRisksRequest(parent=PARENT, risks=rows)])))
    every = names(risks, parent=PARENT, order_by="name", page_size=1000)
    assert every == sorted(set(every)) and {row.name for row in rows} <= set(every)
    assert names(risks, parent=PARENT, order_by="name", page_size=7) == every
    assert names(risks, parent=PARENT, order_by="name desc", page_size=1000) == every[::-1]
    low = names(risks, parent=PARENT, filter='level = LOW AND division = "320681"', page_size=11)
    assert {row.name for row in rows} <= set(low) < set(every)
    page = risks.ListRisks(ListRisksRequest(parent=PARENT, page_size=7))
    other = refused(risks.ListRisks, ListRisksRequest(
        parent=PARENT, page_size=7, page_token=page.next_page_token, filter="level = LOW"))
    assert (other.code, other.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")
    unknown = refused(risks.ListRisks, ListRisksRequest(parent=PARENT, filter="colour = RED"))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FILTER_INVALID")


def test_a_watch_at_the_city_resumes_where_it_was_cut(risks, above, item):
    start = above.ListRisks(ListRisksRequest(parent="agencies/-/risks", page_size=1)).position
    query = dict(parent="agencies/-/risks", filter=f'name = "{risk(item).name}"')
    for note in ("一", "二"):
        risks.SubmitRisk(SubmitRiskRequest(risk=risk(item, note=note)))
    watch = above.WatchRisks(WatchRisksRequest(position=start, **query))
    first = next(changes(watch))
    assert (first.revision.risk.note, first.revision.info.revision) == ("一", 1)
    watch.cancel()
    risks.SubmitRisk(SubmitRiskRequest(risk=risk(item, note="三")))
    watch = changes(above.WatchRisks(WatchRisksRequest(position=first.position, **query)))
    assert [next(watch).revision.risk.note for _ in range(2)] == ["二", "三"]
    # And one that comes while it waits.
    began = time.monotonic()
    risks.SubmitRisk(SubmitRiskRequest(risk=risk(item, note="四")))
    assert next(watch).revision.risk.note == "四"
    assert time.monotonic() - began < 5, "the city follows within a second; five is for a slow machine"
    foreign = refused(above.WatchRisks, WatchRisksRequest(position="no position", **query))
    assert (foreign.code, foreign.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "POSITION_INVALID")
