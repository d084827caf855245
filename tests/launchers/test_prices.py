"""Prices of machines: the table, `python -m launchers prices`, and its refresh from the AWS Price List API."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from launchers.aws import prices_refresh
from launchers.cli.verbs import main
from launchers.cost import needs, prices
from launchers.cost.needs import Needs
from launchers.status import LaunchError

REPORT = {  # the accelerated types of the report, in US dollars an hour
    "ml.p3.2xlarge": 3.825, "ml.p3.8xlarge": 14.688, "ml.p3.16xlarge": 28.152, "ml.p2.xlarge": 1.125,
    "ml.p2.8xlarge": 8.64, "ml.p2.16xlarge": 16.56, "ml.g4dn.xlarge": 0.736, "ml.g4dn.2xlarge": 0.94,
    "ml.g4dn.4xlarge": 1.505, "ml.g4dn.8xlarge": 2.72, "ml.g4dn.12xlarge": 4.89, "ml.g4dn.16xlarge": 5.44,
}  # fmt: skip


@pytest.mark.parametrize("name", REPORT)
def test_the_table_has_the_report_s_types_at_its_prices(name: str) -> None:
    row = prices.instance(name)
    assert row is not None
    assert row.usd == pytest.approx(REPORT[name], abs=0.0005)
    assert row.withdrawn == (row.type.split(".")[1] in ("p2", "p3"))


def test_every_price_has_a_day_a_source_and_a_machine() -> None:
    for section in ("training", "hosting", "ec2"):
        for name, row in prices._table()[section].items():
            assert prices.machine_of(name) in prices._table()["machines"], name
            assert row["source"] in ("lists", "api", "rule", "report"), name
            assert str(row["as_of"]).startswith("2026-") or row["source"] == "report", name
    assert prices.lambda_prices().source == "api"


def test_families_are_priced_for_training_endpoints_and_ec2() -> None:
    for family in ("m5", "c5", "c6i", "c7i", "m7i", "g5", "g6", "g6e"):
        name = f"{family}.2xlarge"
        assert prices.instance(f"ml.{name}")
        assert prices.hosting(f"ml.{name}")
        machine = prices.ec2(name)
        assert machine is not None
        assert 1.15 < prices.instance(f"ml.{name}").usd / machine.usd < 1.45  # type: ignore[union-attr]


def test_our_server_has_no_use_for_a_gpu() -> None:
    assert prices.hosting("ml.g5.xlarge")
    assert not prices.hosts("ml.g5.xlarge")
    assert "ml.g5.xlarge" not in prices.hosting_types()


def test_what_is_withdrawn_is_not_suggested() -> None:
    assert prices.closest("ml.p4.24xlarge")[0] == "ml.p4d.24xlarge"
    assert not any(name.startswith(("ml.p2.", "ml.p3.")) for name in prices.closest("ml.p3.3xlarge"))


# --- the command ---


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["prices", *words]) == 0
    return capsys.readouterr().out


def test_the_cheapest_gpu_is_first_and_lines_fit(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "--need", "gpu=1").splitlines()
    assert lines[1].split()[:4] == ["ml.g4dn.xlarge", "0.736", "0.736", "0.526"]
    assert max(map(len, lines)) <= 80
    kept = [line for line in lines if line.startswith("ml.")]
    assert all("withdrawn" in line for line in kept[-6:])
    assert not any("withdrawn" in line for line in kept[:-6])


def test_json_has_the_same_rows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(shown(capsys, "--need", "gpu=1,gpu_memory_gb=40", "--json"))
    assert rows[0]["type"] == "ml.g6e.xlarge"
    assert {row["gpu"] for row in rows} == {"L40S", "A100"}
    assert rows[0]["ec2_usd"] == 1.861


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("gpu=16,gpu_memory_gb=12", "gpu=8, gpu_memory_gb=12.\nTry: --need gpu=8,gpu_memory_gb=12"),
        ("gpu=1,gpu_memory_gb=200", "The nearest is ml.g6e.xlarge, which has gpu=1, gpu_memory_gb=48."),
        ("gpus=1", "--need knows no 'gpus', only gpu, gpu_memory_gb, vcpus, memory_gb.\nTry: --need gpu=1"),
        ("gpu=many", "must name a number of at least 0 for gpu, got 'many'"),
        ("gpu=-1", "must name a number of at least 0 for gpu, got -1.0"),
        ("gpu", "must name a number of at least 0 for gpu, got ''"),
    ],
)
def test_needs_that_nothing_meets_name_what_is_near(typed: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prices", "--need", typed]) == 1
    assert said in capsys.readouterr().err


def test_needs_as_a_setting_are_shown_as_one_types_them() -> None:
    (text,) = needs.findings({"gpu": 1, "gpu_memory_gb": 100}, "launcher.needs")
    assert text.endswith("Try: 'launcher.needs={gpu: 1, gpu_memory_gb: 48}'")
    assert Needs.of({"gpu": 1}).types()[0].type == "ml.g4dn.xlarge"
    assert not any(row.withdrawn for row in Needs.of({"gpu": 1}).types())


# --- the refresh ---


def product(attributes: dict[str, str], usd: str, unit: str = "Hrs") -> str:
    """Return a product as GetProducts lists it: JSON in a string."""
    term = {"offerTermCode": "JRTCKXETXF", "priceDimensions": {"A.B.6YS6EN2CT7": {
        "unit": unit, "endRange": "Inf", "beginRange": "0", "pricePerUnit": {"USD": usd},
    }}}  # fmt: skip
    about = {"productFamily": "ML Instance", "attributes": {"regionCode": "us-east-1", **attributes}, "sku": "A"}
    return json.dumps({"product": about, "serviceCode": "X", "terms": {"OnDemand": {"A.JRTCKXETXF": term}}})


class PriceList:
    """Answers GetProducts over HTTP as AWS does: filters by attribute, one product a page."""

    def __init__(self) -> None:
        self.products: dict[str, list[str]] = {"AmazonSageMaker": [], "AmazonEC2": [], "AWSLambda": []}
        self.asked: list[dict[str, Any]] = []
        self.denied = False
        list_ = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.headers["X-Amz-Target"] == "AWSPriceListService.GetProducts"
                status, answer = list_.answer(body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append(body)
        if self.denied:
            return 400, {"__type": "AccessDeniedException", "Message": "User: arn:aws:iam::1:user/me is not authorized "
                         "to perform: pricing:GetProducts because no identity-based policy allows it"}  # fmt: skip
        wanted = {each["Field"]: each["Value"] for each in body["Filters"] if each["Field"] != "productFamily"}
        found = [
            text
            for text in self.products[body["ServiceCode"]]
            if wanted.items() <= json.loads(text)["product"]["attributes"].items()
        ]
        first = int(body.get("NextToken", 0))
        more = {"NextToken": str(first + 1)} if first + 1 < len(found) else {}
        return 200, {"FormatVersion": "aws_v1", "PriceList": found[first : first + 1], **more}


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[PriceList]:
    price_list = PriceList()
    monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", f"http://127.0.0.1:{price_list.server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    on_linux = {"operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used"}
    price_list.products = {
        "AmazonSageMaker": [
            product({"component": "Training", "instanceName": "ml.m5.large"}, "0.1200000000"),
            product({"component": "Training", "instanceName": "ml.p3.2xlarge"}, "3.8250000000"),
            product({"component": "Training", "instanceName": "ml.new.large"}, "9.0000000000"),
            product({"instanceName": "ml.m5.large", "usagetype": "USE1-TrainingPlanUpfrontFee"}, "0.01", "Quantity"),
            product({"component": "Hosting", "instanceName": "ml.m5.large"}, "0.1150000000"),
        ],
        "AmazonEC2": [
            product({**on_linux, "instanceType": "m5.large"}, "0.0960000000"),
            product({**on_linux, "instanceType": "m5.large", "marketoption": "CapacityBlock"}, "0.5"),
            product({**on_linux, "instanceType": "m5.large", "operatingSystem": "Windows"}, "0.188"),
        ],
        "AWSLambda": [
            product({"group": "AWS-Lambda-Duration"}, "0.0000166667", "Lambda-GB-Second"),
            product({"group": "AWS-Lambda-Duration-ARM"}, "0.0000133334", "Lambda-GB-Second"),
            product({"group": "AWS-Lambda-Requests"}, "0.0000003000", "Requests"),
            product({"group": "AWS-Lambda-Provisioned-Concurrency"}, "0.0000041667", "Lambda-GB-Second"),
            product({"group": "AWS-Lambda-Duration-Provisioned"}, "0.0000097222", "Lambda-GB-Second"),
        ],
    }
    yield price_list
    price_list.server.shutdown()
    price_list.server.server_close()


def test_a_refresh_takes_over_what_the_price_list_says(listed: PriceList, tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(prices.TABLE.read_text())
    text, report = prices_refresh.refreshed(file.read_text(), today="2027-01-02")
    lines = text.splitlines()
    assert "  ml.m5.large: {usd: 0.12, as_of: 2027-01-02, source: api}" in lines  # training
    assert "  ml.m5.large: {usd: 0.115, as_of: 2027-01-02, source: api}" in lines  # hosting
    assert "  m5.large: {usd: 0.096, as_of: 2027-01-02, source: api}" in lines
    assert "  ml.p3.2xlarge: {usd: 3.825, as_of: 2027-01-02, source: api}" in lines  # offered again
    assert "  ml.m5.xlarge: {usd: 0.23, as_of: 2026-11-24, source: lists, withdrawn: true}" in lines
    assert "  usd_per_million: 0.3" in lines
    assert "ml.new.large" not in text
    assert "  ml.m5.large (training): 0.115 -> 0.12" in report.splitlines()
    assert len(lines) == len(prices.TABLE.read_text().splitlines())
    again, report = prices_refresh.refreshed(text, today="2027-01-03")
    assert report == "No prices changed"
    assert again.replace("2027-01-03", "2027-01-02") == text


def test_the_command_refreshes_the_table_that_it_then_shows(
    listed: PriceList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(prices.TABLE.read_text())
    monkeypatch.setattr(prices, "TABLE", file)
    prices.forget()
    try:
        out = shown(capsys, "--refresh", "--need", "vcpus=2")
    finally:
        monkeypatch.undo()
        prices.forget()
    assert "prices changed:\n  ml.m5.large (training): 0.115 -> 0.12\n" in out
    assert [line.split()[0] for line in out.splitlines() if line.startswith("ml.")][:2] == [
        "ml.m5.large",
        "ml.p3.2xlarge",
    ]


def test_without_the_permission_nothing_changes_and_it_is_named(listed: PriceList, tmp_path: Path) -> None:
    listed.denied = True
    file = tmp_path / "prices.yaml"
    file.write_text(prices.TABLE.read_text())
    with pytest.raises(LaunchError, match="pricing:GetProducts"):
        prices_refresh.refresh(file)
    assert file.read_text() == prices.TABLE.read_text()


def test_an_empty_answer_withdraws_nothing(listed: PriceList) -> None:
    listed.products["AmazonEC2"] = []
    with pytest.raises(LaunchError, match="has no prices for ec2"):
        prices_refresh.refreshed(prices.TABLE.read_text(), today="2027-01-02")
