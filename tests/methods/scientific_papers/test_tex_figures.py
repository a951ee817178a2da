"""Figures and captions in LaTeX sources and JATS articles: the rules, and what somebody may put there instead."""

import logging
import sys
import time

import pytest

from tether.core.errors import InputError, MissingExtraError
from tether.methods.scientific_papers import extract_jats_figures, extract_tex_figures, latex_to_text
from tether.methods.scientific_papers.tex import decode_tex
from tether.methods.scientific_papers.tex_tree import DEEPEST, read_tex


def figure(inside: str, *, environment: str = "figure", options: str = "") -> str:
    return f"\\begin{{{environment}}}{options}{inside}\\end{{{environment}}}\n"


def captions(source: str | bytes, *names: str, **keywords) -> dict[str, str]:
    return extract_tex_figures(source, image_names=names or ("a.png", "b.png", "c.pdf"), **keywords)


@pytest.mark.parametrize(
    ("inside", "wanted"),
    [
        (r"\includegraphics{a.png}\caption{After.}", {"a.png": "After."}),
        (r"\caption{Before.}\includegraphics{a.png}", {"a.png": "Before."}),
        (r"\includegraphics[width=2cm]{a.png}\caption[short]{Long one.}", {"a.png": "Long one."}),
        (r"\includegraphics{a.png}\caption{One.}\caption{Two.}", {"a.png": "One."}),
        (r"\includegraphics{a.png}\includegraphics{b.png}\caption{Both.}", {}),
        (r"\includegraphics{a.png}\includegraphics{zz.png}\caption{Both.}", {}),
        (r"\begin{center}\includegraphics{a.png}\end{center}\caption{Outside of it.}", {}),
        (r"\includegraphics*{a.png}\caption{Starred.}", {}),
        (r"\includegraphics{a.png}\caption*{Starred.}", {}),
        (r"\includegraphics{}\caption{Nothing.}", {}),
        (r"\includegraphics{A.png}\caption{Case counts.}", {}),
        (r"\includegraphics{c}\caption{No ending.}", {"c.pdf": "No ending."}),
        (r"\includegraphics{c.eps}\caption{Another ending.}", {}),
        (r"\includegraphics{a.png}\caption{See \href{http://x}{y}.}", {}),
        (r"\includegraphics{a.png}\caption{Write to \email{x@y}.}", {}),
        (r"\includegraphics{a.png}\caption[\url{x}]{Only the short one.}", {"a.png": "Only the short one."}),
        (r"\includegraphics{a.png}\caption{}", {"a.png": ""}),
        (r"\includegraphics{a.png}\caption{An \includegraphics{b.png} inside.}", {}),
        (r"\includegraphics{a.png}\caption{Unclosed", {"a.png": "Unclosed"}),
        (
            r"\begin{subfigure}{1cm}\includegraphics{a.png}\caption{In.}\end{subfigure}"
            r"\begin{subfigure}{1cm}\includegraphics{b.png}\end{subfigure}\caption{Out.}",
            {"a.png": "In."},
        ),
    ],
)
def test_which_caption_belongs_to_which_image(inside, wanted):
    found = captions(figure(inside))
    assert {name: text.removesuffix(r"\end{figure}").strip() for name, text in found.items()} == wanted


def test_commented_graphics_do_not_count():
    text = "%\\includegraphics{b.png}\n\\includegraphics{a.png}%\\caption{No.}\n\\caption{Yes % hidden\n, it is.}"
    assert captions(figure(text)) == {"a.png": "Yes , it is."}
    assert captions("%" + figure(r"\includegraphics{a.png}\caption{No.}")) == {}


def test_lines_that_define_commands_are_left_out_whole():
    text = "\\newcommand{\\x}{y} \\includegraphics{b.png}\\caption{Gone with its line.}\n"
    assert captions(text + figure(r"\includegraphics{a.png}\caption{Stays.}")) == {"a.png": "Stays."}
    last = r"\newcommand{\x}{y}\includegraphics{a.png}\caption{A last line without an end is no line.}"
    assert list(captions(last)) == ["a.png"]


def test_the_last_caption_of_an_image_wins():
    once, again = (figure(rf"\includegraphics{{a.png}}\caption{{{word}}}") for word in ("First", "Second"))
    assert captions(once + again) == {"a.png": "Second"}
    assert captions(again + once) == {"a.png": "First"}


@pytest.mark.parametrize("name", ["itemize", "equation", "align*", "verbatim", "lstlisting"])
def test_nothing_is_found_in_what_is_not_read(name):
    inner = figure(r"\includegraphics{a.png}\caption{x}")
    assert captions(figure(inner, environment=name)) == {}
    assert captions(figure(inner, environment="center")) == {"a.png": "x"}


def test_the_first_of_equal_stems_is_taken():
    text = figure(r"\includegraphics{dir/a}\caption{x}")
    assert captions(text, "dir/a.eps", "dir/a.pdf") == {"dir/a.eps": "x"}
    assert captions(text, "dir/a.pdf", "dir/a.eps") == {"dir/a.pdf": "x"}
    assert captions(text, "a.pdf") == {}


def test_a_file_that_includes_itself_is_read_once():
    text = r"\input{main}\include{main}\subfile{main.tex}" + figure(r"\includegraphics{a.png}\caption{x}")
    assert captions(text) == {"a.png": "x"}


@pytest.mark.parametrize(
    "text",
    ["costs $5", r"\begin{equation} x", r"\begin{itemize}\item x", r"\begin x", r"$\item$", "{" * (DEEPEST + 1), "\\"],
)
def test_latex_that_cannot_be_read_gives_nothing_and_is_said(text, caplog):
    good = figure(r"\includegraphics{a.png}\caption{x}")
    with caplog.at_level(logging.WARNING, logger="tether.data"):
        assert captions(good + text) == {}
    assert "LaTeX that cannot be read" in caplog.text
    with pytest.raises(InputError, match="LaTeX that cannot be read"):
        captions(good + text, strict=True)


@pytest.mark.parametrize(
    "text",
    [
        "\\a{\\begin{x}" * 40 + "\\end{x}}" * 40,
        "{" * 100_000,
        "\\a[" * 30_000,
        "\\begin{x}\\end{y}" * 10_000,
        "\\caption" + " " * 200_000,
        "a" * 200_000 + "\\newcomman",
        "\\begin{figure}" + "\\includegraphics{a.png}" * 5_000 + "\\caption{x}\\end{figure}",
        "$" * 100_001,
    ],
    ids=["arguments", "braces", "brackets", "crossed", "blanks", "line", "graphics", "dollars"],
)
def test_reading_takes_time_in_proportion(text):
    """TexSoup needs 2^40 steps for the first; a quadratic reader minutes for the others."""
    begin = time.process_time()
    captions(text)
    assert time.process_time() - begin < 10


def test_a_caption_of_a_megabyte(caplog):
    """Left out of LaTeX, where it can only be a mistake or an attack; of an article it is taken."""
    long, fine = "long words " * 95_000, figure(r"\includegraphics{b.png}\caption{Fine.}")
    assert captions(figure(r"\includegraphics{a.png}\caption{" + long + "}") + fine) == {"b.png": "Fine."}
    assert "1045000 characters of LaTeX" in caplog.text
    assert extract_jats_figures(article(fig(long))) == {"x": long}


def test_bytes_are_read_in_the_encoding_that_is_said():
    text = figure(r"\includegraphics{a.png}\caption{Café “q”.}")
    assert captions(text.encode(), encoding="auto") == {"a.png": "Café “q”."}
    assert captions(text.encode("cp1252"), encoding="auto") == {"a.png": "Café “q”."}
    assert captions(text.encode("cp1252")) == {"a.png": "Café \x93q\x94."}
    assert captions(text.encode("utf-16"), encoding="auto") == {"a.png": "Café “q”."}
    assert decode_tex(b"\x81\xe9") == "\x81é"
    with pytest.raises(InputError, match="klingon"):
        captions(text.encode(), encoding="klingon")
    with pytest.raises(InputError, match="not ascii"):
        captions(text.encode(), encoding="ascii")


def test_right_to_left_and_combining_letters_stay_as_they_are():
    words = "שלום عالم e\u0301 한국어 𝔘"
    assert captions(figure(rf"\includegraphics{{a.png}}\caption{{{words}}}")) == {"a.png": words}
    named = figure(r"\includegraphics{תמונה}\caption{x}")
    assert extract_tex_figures(named, image_names=["תמונה.png"]) == {"תמונה.png": "x"}


def test_a_text_maker_of_ones_own():
    text = figure(r"\includegraphics{a.png}\caption{A \eg{} B}")
    assert captions(text, to_text=str.upper) == {"a.png": r"A \EG{} B"}
    assert captions(text, to_text=lambda s: latex_to_text(s, symbols={"eg": "100% {e.g.}"})) == {
        "a.png": "A 100% {e.g.} B"
    }


def test_plain_text():
    assert latex_to_text(r"Schr\"odinger~\cite{x}, $x^2$: \emph{50\,\%} \ref{y}") == (
        "Schrödinger\u00a0<cit.>, x^2: 50 % <ref>"
    )
    for broken in ("{" * 5000, r"\href{x}{y}"):
        with pytest.raises(InputError, match="become text"):
            latex_to_text(broken)


def test_a_caption_that_cannot_become_text_costs_only_itself(caplog):
    deep = r"\includegraphics{a.png}\caption{" + r"\textbf{" * 60 + "}" * 60 + "}"
    text = figure(deep) + figure(r"\includegraphics{b.png}\caption{Fine.}")

    def shallow(latex: str) -> str:
        if latex.count("{") > 50:
            raise InputError("too deep")
        return latex

    assert captions(text, to_text=shallow) == {"b.png": "Fine."}
    assert "caption of 'a.png': too deep" in caplog.text
    with pytest.raises(InputError, match=r"a\.png.*too deep"):
        captions(text, to_text=shallow, strict=True)


def test_the_tree_is_what_was_written():
    text = r"\documentclass[a]{b} x \begin{figure}[h]\emph{y}$z$ % c" + "\n\\end{figure} {g}"
    assert read_tex(text).inner() == text


def article(*figures: str, head: str = "", front: str = "") -> str:
    return f'{head}<article xmlns:xlink="http://www.w3.org/1999/xlink">{front}<body>{"".join(figures)}</body></article>'


def fig(caption: str = "<p>Words.</p>", *, attributes: str = "", graphic: str = '<graphic xlink:href="x"/>') -> str:
    return f"<fig {attributes}><caption>{caption}</caption>{graphic}</fig>"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (fig(), {"x": "Words."}),
        (fig(attributes='fig-type="Figure"'), {"x": "Words."}),
        (fig(attributes='fig-type="figure"'), {}),
        (fig(attributes='xml:lang="en-GB"'), {"x": "Words."}),
        (fig(attributes='xml:lang="EN"'), {"x": "Words."}),
        (fig(attributes='xml:lang="de"'), {}),
        (fig("<title>Growth.</title><p>Growth over <i>time</i>.</p>"), {"x": "Growth.Growth over time."}),
        (fig("<p>\n \t</p>"), {}),
        (fig(""), {"x": ""}),
        (fig(graphic='<alternatives><graphic xlink:href="x"/></alternatives>'), {}),
        (fig(graphic="<graphic/>"), {}),
        (fig() + fig("<p>Later.</p>"), {"x": "Later."}),
        (f"<fig-group>{fig()}</fig-group>", {"x": "Words."}),
    ],
)
def test_figures_of_an_article(text, wanted):
    assert extract_jats_figures(article(text), image_names=["dir/x.jpg"]) == wanted


@pytest.mark.parametrize(
    ("languages", "wanted"),
    [
        (["en"], {"en", "en-GB", "EN_us"}),
        ("en", {"en", "en-GB", "EN_us"}),
        (("EN-gb", "de"), {"en-GB"}),
        ([], {"en", "en-GB", "EN_us", "enm"}),
    ],
)
def test_languages_are_whole_codes(languages, wanted):
    text = article(
        *(
            fig(attributes=f'xml:lang="{code}"', graphic=f'<graphic xlink:href="{code}"/>')
            for code in ("en", "en-GB", "EN_us", "enm")
        )
    )
    assert extract_jats_figures(text, languages=languages).keys() == wanted


def test_images_beside_an_article():
    text = article(fig())
    assert extract_jats_figures(text, image_names=["x.gif", "y.jpg"]) == {}
    assert extract_jats_figures(text, image_names=["X.jpg"]) == {}
    assert extract_jats_figures(text) == {"x": "Words."}


def test_languages_and_blanks_of_ones_own():
    text = article(fig("<title>Eins.</title>\n<p>Zwei\n drei.</p>", attributes='xml:lang="de"'))
    assert extract_jats_figures(text, languages=("fr", "de")) == {"x": "Eins.\nZwei\n drei."}
    assert extract_jats_figures(text, languages=(), join=" ", blanks="collapsed") == {"x": "Eins. Zwei drei."}


BOMB = "<!DOCTYPE a [<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {chr(98 + n)} '{f'&{chr(97 + n)};' * 10}'>" for n in range(9)
)


@pytest.mark.parametrize(
    "text",
    [
        article(fig("<p>&j;</p>"), head=BOMB + "]>"),
        article(fig("<p>&f;</p>"), head='<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/hostname">]>'),
        article(fig(), head='<!DOCTYPE a [<!ENTITY % f SYSTEM "http://localhost/x"> %f;]>'),
        article(fig("<p>&nbsp;</p>"), head='<!DOCTYPE article PUBLIC "-//NLM//DTD JATS" "JATS.dtd">'),
        "<article><fig>",
        "",
        "no XML",
        '<?xml version="1.0" encoding="klingon"?><article/>',
    ],
    ids=["bomb", "file", "parameter", "undefined", "unclosed", "empty", "text", "encoding"],
)
def test_articles_that_are_not_read(text, caplog):
    assert extract_jats_figures(text.encode()) == {}
    assert "XML" in caplog.text
    with pytest.raises(InputError, match="XML"):
        extract_jats_figures(text.encode(), strict=True)


def test_a_document_type_alone_does_no_harm():
    head = '<!DOCTYPE article PUBLIC "-//NLM//DTD JATS" "http://localhost/JATS.dtd">'
    assert extract_jats_figures(article(fig("<p>a&#160;b</p>"), head=head)) == {"x": "a\u00a0b"}


def test_an_article_of_a_hundred_thousand_levels():
    text = article("<sec>" * 100_000 + fig() + "</sec>" * 100_000)
    assert extract_jats_figures(text) in ({"x": "Words."}, {})  # some parsers have a limit of their own


def test_missing_libraries_are_named(monkeypatch):
    from tether.methods.scientific_papers import tex

    tex._converter.cache_clear()
    for module in ("pylatexenc", "defusedxml.common", "defusedxml.ElementTree"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pylatexenc.*tether-clip\[figures\]"):
        latex_to_text("x")
    with pytest.raises(MissingExtraError, match=r"defusedxml.*tether-clip\[figures\]"):
        extract_jats_figures("<article/>")
