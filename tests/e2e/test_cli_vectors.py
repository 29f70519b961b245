"""The verbs that need no network, as a person or a script runs them, against a real server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from engine.client import Client, EnrollItem
from engine.types import EmbeddingContract
from tests.e2e.command import RUN_S, answered, refused
from tests.e2e.conftest import PROGRAM, Launch, ServerProcess

pytestmark = [pytest.mark.e2e]
CONTRACT = EmbeddingContract("elsewhere", "", "", mirror=False, dimension=4, threshold=0.9)


def test_a_server_of_vectors_refuses_pictures(vector_server: ServerProcess, tmp_path: Path) -> None:
    told = answered(vector_server, "status", "--json").json
    assert (told["device"], told["model"]) == ("none", "none")
    assert "vectors only" in answered(vector_server, "status").out
    answered(vector_server, "gallery", "create", "words", "--dimension", "4", "--threshold", "0.9")
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"\xff\xd8\xff")
    assert "--model" in refused(vector_server, "identify", "words", picture)
    assert "contract" in refused(vector_server, "gallery", "create", "faces")


def test_galleries_and_aliases_come_and_go(vector_server: ServerProcess) -> None:
    create = ("--dimension", "4", "--contract", "mine", "--threshold", "0.5", "--templates-max", "3")
    told = answered(vector_server, "gallery", "create", "one", *create, "--json").json
    assert (told["model"], told["dimension"], told["threshold"]) == ("mine", 4, 0.5)
    assert told["templates_per_identity_max"] == 3
    assert "one" in refused(vector_server, "gallery", "create", "one", *create)
    answered(vector_server, "gallery", "create", "two", *create)
    stricter = answered(vector_server, "gallery", "update", "one", "--threshold", "0.95", "--json").json
    assert stricter["threshold"] == 0.95
    assert answered(vector_server, "gallery", "alias", "now", "one").out == "now names one\n"
    moved = answered(vector_server, "gallery", "alias", "now", "two", "--json").json
    assert moved == {"alias": "now", "id": "two", "previous_id": "one"}
    assert answered(vector_server, "gallery", "show", "now", "--json").json["aliases"] == ["now"]
    assert "alias" in refused(vector_server, "gallery", "delete", "two")
    forgotten = answered(vector_server, "gallery", "alias", "now", "--delete", "--json").json
    assert forgotten == {"alias": "now", "id": None, "previous_id": "two"}
    answered(vector_server, "gallery", "delete", "two")
    assert answered(vector_server, "gallery", "delete", "one", "--json").json["is_deleted"] is True
    ids = [told["id"] for told in answered(vector_server, "gallery", "list", "--json").json["galleries"]]
    assert not {"one", "two"} & set(ids)
    assert "identiface gallery list" in refused(vector_server, "gallery", "show", "one")


def test_lists_of_many_pages_are_complete_and_in_order(vector_server: ServerProcess) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(450, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"person {number:03}" for number in range(450)]
    with Client(vector_server.address) as client:
        client.create_gallery("crowd", CONTRACT)
        items = (EnrollItem(name, [vector]) for name, vector in zip(ids, vectors, strict=True))
        assert [name for name, _ in client.enroll_stream("crowd", items)] == ids
    told = answered(vector_server, "list", "crowd", "--json").jsons
    assert [identity["identity_id"] for identity in told] == ids
    lines = answered(vector_server, "list", "crowd").out.splitlines()
    assert lines[0].startswith("identity")
    assert [line[:10] for line in lines[1:]] == ids
    built = answered(vector_server, "build", "crowd", "--json").json
    assert (built["id"], built["templates"]) == ("crowd", 450)
    line = answered(vector_server, "build", "crowd").out
    assert line.startswith("crowd: generation 2 of 450 templates is current")
    measured = answered(vector_server, "recall", "crowd", "--probes", "100", "--json").json
    assert (measured["generation"], measured["agreement"]) == (2, {"probes": 100, "top1": 1.0, "top10": 1.0})
    assert "100.00% of 100 probes" in answered(vector_server, "recall", "crowd", "--probes", "100").out
    (line,) = (
        line for line in answered(vector_server, "status").out.splitlines() if line.split()[0] == "crowd"
    )
    assert line.split()[-4:] == ["2", "flat", "100.00%", "100.00%"]
    template = told[0]["templates"][0]["template_id"]
    line = answered(vector_server, "remove", "crowd", ids[0], "--template", str(template)).out
    assert "identity kept, 1 template removed" in line
    assert answered(vector_server, "remove", "crowd", ids[1], "--json").json["templates"] == 1
    assert len(answered(vector_server, "list", "crowd", "--json").jsons) == 449


def test_nobody_enrolled_is_said(vector_server: ServerProcess) -> None:
    answered(vector_server, "gallery", "create", "nobody", "--dimension", "4", "--threshold", "0.9")
    assert answered(vector_server, "list", "nobody").out == "nobody is enrolled in nobody\n"
    assert answered(vector_server, "list", "nobody", "--json").out == ""


def test_names_in_every_script_are_listed_as_they_are(vector_server: ServerProcess) -> None:
    names = ["Zoë", "Владимир", "山田太郎", "अदा", "عادة", "😀"]
    with Client(vector_server.address) as client:
        client.create_gallery("names", CONTRACT)
        for name in names:
            client.enroll("names", name)
    told = answered(vector_server, "list", "names", "--json").jsons
    assert [identity["identity_id"] for identity in told] == sorted(names, key=str.encode)
    text = answered(vector_server, "list", "names").out
    assert all(name in text for name in names)
    for name in names:
        answered(vector_server, "remove", "names", name)


def test_ctrl_c_while_waiting_for_a_picture_is_quiet(vector_server: ServerProcess) -> None:
    command = [str(PROGRAM), "detect", "-", "--server", vector_server.address]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        # More than a pipe holds: once it is written, the command is reading.
        process.stdin.write(bytes(2**20))
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=RUN_S)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_server_that_cannot_start_says_why(vector_server: ServerProcess, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("thread = 4\n")
    misspelt = tmp_path / "misspelt.toml"
    misspelt.write_text('dta = "faces"\n')
    serve = ("serve", "--listen", "127.0.0.1:0", "--model", "none")
    cases = [
        (("--data", vector_server.data), "in use"),
        (("--data", tmp_path / "data", "--config", settings), "did you mean `threads`?"),
        (("--config", misspelt), "did you mean `data`?"),
        (("--data", tmp_path / "data", "--config", tmp_path / "missing.toml"), "Check the path of --config."),
        (("--data", tmp_path / "data", "--listen", "0.0.0.0:0"), "--insecure"),
        (("--data", tmp_path / "data", "--listen", vector_server.address), "choose another port"),
        (("--data", settings), "settings.toml"),
        (("--data", tmp_path / "data", "--port-file", tmp_path), "port_file"),
        (("--data", tmp_path / "data", "--metrics-listen", "0.0.0.0:0"), "--insecure"),
    ]
    for arguments, said in cases:
        line = refused(None, *serve, *arguments)
        assert said in line
        assert "key that the message names" not in line


def test_a_verb_waits_for_a_server_that_is_starting(launch: Launch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    command = [str(PROGRAM), "status", "--json", "--server", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
        server = launch("--model", "none", "--listen", address, folder=tmp_path).ready()
        out, err = asking.communicate(timeout=RUN_S)
    assert (asking.returncode, err) == (0, b"")
    assert json.loads(out)["model"] == "none"
    server.stop()
