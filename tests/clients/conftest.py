"""Python clients at running nodes. They are told where by the environment:

HEFU_TEST_PKI     folder with ca.pem, admin-operator.pem, agency-qidong-emergency.pem and their keys
HEFU_TEST_CITY    host:port of the city's node
HEFU_TEST_COUNTY  host:port of Qidong's node

`hefu demo` prints all three; `.ci/run` starts one. The protos are compiled on the fly.
"""

import os
import pathlib
import sys
import tempfile
import uuid

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

PROTOS = pathlib.Path(__file__).resolve().parents[2] / "proto"
# Seconds that any call may take: a node that hangs fails the test.
DEADLINE = 20


def compile_protos():
    out = tempfile.mkdtemp(prefix="hefu-protos-")
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    arguments = [f"-I{PROTOS}", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(["protoc", *arguments, *map(str, sorted(PROTOS.rglob("*.proto")))]) != 0:
        raise RuntimeError("the protos do not compile")
    sys.path.insert(0, out)


compile_protos()

from hefu.risk.v1 import risk_pb2  # noqa: E402
from hefu.type.v1 import type_pb2  # noqa: E402

PKI = pathlib.Path(os.environ["HEFU_TEST_PKI"])
AGENCY = "qidong-emergency"
PARENT = f"agencies/{AGENCY}/risks"


class Deadline(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor,
               grpc.StreamStreamClientInterceptor):
    def go_on(self, go_on, details, request):
        return go_on(details._replace(timeout=details.timeout or DEADLINE), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = go_on


def channel(where, who):
    files = [None, None] if who is None else [(PKI / f"{who}.{end}").read_bytes() for end in ("key", "pem")]
    tls = grpc.ssl_channel_credentials((PKI / "ca.pem").read_bytes(), *files)
    return grpc.intercept_channel(grpc.secure_channel(os.environ[where], tls), Deadline())


@pytest.fixture(scope="session")
def county():
    """Qidong's node, as its emergency bureau."""
    return channel("HEFU_TEST_COUNTY", f"agency-{AGENCY}")


@pytest.fixture(scope="session")
def city():
    """The city's node, as an administrator."""
    return channel("HEFU_TEST_CITY", "admin-operator")


@pytest.fixture(scope="session")
def stranger():
    """Qidong's node, without a certificate."""
    return channel("HEFU_TEST_COUNTY", None)


@pytest.fixture
def item():
    """An item number that no run has used."""
    return f"PY-{uuid.uuid4().hex[:12]}"


def risk(item, agency=AGENCY, **changes):
    fields = dict(
        name=f"agencies/{agency}/risks/{item}", title="测试风险", sector="C2631",
        place=type_pb2.Place(division="320681", address="启东市试验路1号", latitude=31.8, longitude=121.66,
                             datum=type_pb2.DATUM_CGCS2000),
        level=risk_pb2.RISK_LEVEL_MAJOR, state=risk_pb2.RISK_STATE_IDENTIFIED, factor="合成数据",
        consequences=[risk_pb2.CONSEQUENCE_TYPE_FIRE],
        responsible_unit=type_pb2.Unit(name="测试企业（虚构）"), regulator="启东市应急管理局")
    return risk_pb2.Risk(**(fields | changes))


class Refused:
    """An error, with what its google.rpc details say."""

    def __init__(self, error):
        self.code, self.reason, self.fields, self.locales = error.code(), None, {}, set()
        for detail in rpc_status.from_call(error).details:
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            words = error_details_pb2.LocalizedMessage()
            if detail.Unpack(info):
                assert info.domain == "hefu"
                self.reason = info.reason
            elif detail.Unpack(bad):
                self.fields = {each.field: each.reason for each in bad.field_violations}
            elif detail.Unpack(words):
                self.locales.add(words.locale)


def refused(call, request):
    with pytest.raises(grpc.RpcError) as caught:
        list(call(request)) if isinstance(call, grpc.UnaryStreamMultiCallable) else call(request)
    return Refused(caught.value)
