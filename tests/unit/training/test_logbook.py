from tether.training.metrics_log import Logbook, read_metrics


def test_resuming_drops_what_was_logged_later_and_a_line_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    book = Logbook(path, steps_done=0)
    for step in range(4):
        book.write({"step": step, "loss": float(step)})
    book.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    book = Logbook(path, steps_done=2)
    book.write({"step": 2, "loss": 9.0})
    book.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(0, 0.0), (1, 1.0), (2, 9.0)]


def test_numbers_that_json_has_not_become_null(tmp_path):
    book = Logbook(tmp_path / "metrics.jsonl", steps_done=0)
    book.write({"step": 0, "grad_threshold": float("inf"), "eval": {"gap": float("nan")}})
    book.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 0, "grad_threshold": None, "eval": {"gap": None}}]
