#!/usr/bin/env bash
# grpcurl at running nodes, as an administrator and as an agency. Takes HEFU_TEST_PKI, HEFU_TEST_CITY and
# HEFU_TEST_COUNTY, as conftest.py says. Needs grpcurl.
set -euo pipefail

work=$(mktemp -d)
watch=
finish() { [ -z "$watch" ] || kill "$watch" 2>/dev/null || true; rm -rf "$work"; }
trap finish EXIT

as() { # as WHO ARGUMENTS...
  local who=$1 && shift
  timeout 20 grpcurl -cacert "$HEFU_TEST_PKI/ca.pem" -cert "$HEFU_TEST_PKI/$who.pem" -key "$HEFU_TEST_PKI/$who.key" "$@"
}
admin() { as admin-operator "$@"; }
agency() { as agency-qidong-emergency "$@"; }
# has WHAT PATTERN: what was just printed has the pattern.
has() {
  grep -qE -- "$2" "$work/out" || { echo "$1: no $2 in:" && cat "$work/out" && exit 1; }
}
waited() { # waited PATTERN FILE
  for _ in $(seq 100); do ! grep -q -- "$1" "$2" || return 0; sleep 0.1; done
  echo "no $1 in:" && cat "$2" && exit 1
}

admin "$HEFU_TEST_CITY" list >"$work/out"
for service in hefu.{risk.v1.Risk,measure.v1.Measure,incident.v1.Incident,ledger.v1.Ledger,node.v1.Node}Service \
  hefu.audit.v1.AuditService grpc.health.v1.Health; do has list "^$service$"; done
# Reflection shows what one may call: an administrator is no child.
! grep -q ReplicationService "$work/out" || { cat "$work/out" && exit 1; }
admin "$HEFU_TEST_CITY" describe hefu.risk.v1.RiskService >"$work/out"
has describe 'rpc WatchRisks'
admin "$HEFU_TEST_CITY" describe hefu.risk.v1.Risk >"$work/out"
has describe 'RiskLevel level = 5'
admin "$HEFU_TEST_CITY" grpc.health.v1.Health/Check >"$work/out"
has health '"SERVING"'
echo "reflection and health: fine"

admin "$HEFU_TEST_CITY" hefu.node.v1.NodeService/GetStatus >"$work/out"
has status '"node": "nantong"'
has status '"HEALTH_SERVING"'
for county in chongchuan etdz haian haimen qidong rudong rugao tongzhou; do has status "\"node\": \"$county\""; done
admin "$HEFU_TEST_CITY" hefu.ledger.v1.LedgerService/ListLogs >"$work/out"
[ "$(grep -c '"origin"' "$work/out")" = 9 ] || { cat "$work/out" && exit 1; }
admin "$HEFU_TEST_COUNTY" hefu.ledger.v1.LedgerService/GetCheckpoint >"$work/out"
has checkpoint '"checkpoint": "nantong.gov.cn/qidong/'
echo "nodes and logs: fine"

item="GC-$(date +%s)-$$"
name="agencies/qidong-emergency/risks/$item"
# risk NOTE: the request that submits it.
risk() {
  cat <<JSON
{"risk": {"name": "$name", "title": "试点风险", "sector": "C2631", "level": "RISK_LEVEL_GENERAL",
  "place": {"division": "320681", "address": "启东市试点路1号"}, "state": "RISK_STATE_IDENTIFIED",
  "factor": "合成数据", "consequences": ["CONSEQUENCE_TYPE_FIRE"], "note": "$1",
  "responsible_unit": {"name": "试点单位（虚构）"}, "regulator": "启东市应急管理局"}}
JSON
}
submit="hefu.risk.v1.RiskService/SubmitRisk"
admin -d '{"parent": "agencies/-/risks", "page_size": 1}' "$HEFU_TEST_CITY" hefu.risk.v1.RiskService/ListRisks >"$work/out"
position=$(sed -n 's/.*"position": "\([^"]*\)".*/\1/p' "$work/out")
[ -n "$position" ]
admin -d "{\"parent\": \"agencies/-/risks\", \"position\": \"$position\"}" "$HEFU_TEST_CITY" \
  hefu.risk.v1.RiskService/WatchRisks >"$work/watched" 2>&1 &
watch=$!
agency -d "$(risk 一)" "$HEFU_TEST_COUNTY" $submit >"$work/out"
has submit OUTCOME_CREATED
has submit '"leafHash"'
agency -d "$(risk 一)" "$HEFU_TEST_COUNTY" $submit >"$work/out"
has again OUTCOME_UNCHANGED
agency -d "$(risk 二)" "$HEFU_TEST_COUNTY" $submit >"$work/out"
has changed OUTCOME_REVISED
waited '"note": "二"' "$work/watched"
kill "$watch" && wait "$watch" 2>/dev/null || true
watch=
echo "submit at the county, watch at the city: fine"

admin -d "{\"name\": \"$name\"}" "$HEFU_TEST_CITY" hefu.risk.v1.RiskService/GetRisk >"$work/out"
has get '"note": "二"'
admin -d "{\"name\": \"$name\"}" "$HEFU_TEST_CITY" hefu.risk.v1.RiskService/ListRiskRevisions >"$work/out"
has history '"note": "一"'
admin -d "{\"parent\": \"agencies/-/risks\", \"filter\": \"name = \\\"$name\\\"\"}" "$HEFU_TEST_CITY" hefu.risk.v1.RiskService/ListRisks >"$work/out"
[ "$(grep -c '"title"' "$work/out")" = 1 ]
has filter "$name"
admin -d "{\"name\": \"$name\"}" "$HEFU_TEST_CITY" hefu.ledger.v1.LedgerService/GetCustody >"$work/out"
has custody '"inclusion"'
echo "get, history, list, custody at the city: fine"

# Bad input: the details of the status are readable through reflection.
if agency -d '{"risk": {"name": "agencies/qidong-emergency/risks/BAD"}}' "$HEFU_TEST_COUNTY" $submit >"$work/out" 2>&1; then
  echo "a risk without a level was taken" && exit 1
fi
has violations InvalidArgument
has violations '"field": ?"risk.level"'
has violations 'FIELD_INVALID'
if timeout 20 grpcurl -cacert "$HEFU_TEST_PKI/ca.pem" "$HEFU_TEST_CITY" list >"$work/out" 2>&1; then
  echo "a caller without a certificate was served" && exit 1
fi
echo "refusals: fine"
