"""The arguments of keras.layers.LSTM: each is a field of ours with the same default, or is answered in the docs."""

import ast
import inspect
import pathlib
import re
from dataclasses import fields

from keras_peer import keras_fixture  # noqa: F401  # the fixture `keras`

from jlstm import LSTM, Bidirectional

# Fields that are ours alone; docs/keras.md explains them below its table of Keras's arguments.
OWN_FIELDS = {"param_dtype", "keep_order", "remat_every", "backend", "variant"}
DOCS = pathlib.Path(__file__).parents[1] / "docs" / "keras.md"


def keras_arguments(keras):
    """The arguments in Keras's signature of LSTM with their defaults, and those that its **kwargs take."""

    def parameters(cls):
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        found = inspect.signature(cls.__init__).parameters.values()
        return {p.name: p.default for p in found if p.kind in kinds and p.name != "self"}

    signature = parameters(keras.layers.LSTM)
    passed_on = {**parameters(keras.layers.Layer), **parameters(keras.layers.RNN)}
    extra = {name: default for name, default in passed_on.items() if name not in signature and name != "cell"}
    extra["implementation"] = keras.layers.LSTM(1).cell.implementation  # popped from **kwargs by name
    return signature, extra


def documented():
    """The tables of docs/keras.md: the default in the second column by the argument in the first, both in backticks."""
    rows = re.findall(r"^\|\s*`(\w+)`\s*\|\s*([^|]*?)\s*\|", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: default.strip("`") for name, default in rows}


def test_the_docs_have_a_row_for_every_argument_of_keras_with_its_default(keras):
    signature, extra = keras_arguments(keras)
    assert len(signature) == 24
    table = documented()
    assert set(signature) | set(extra) <= set(table)
    for name, default in (signature | extra).items():
        if default is inspect.Parameter.empty:
            assert table[name] == "(required)"
        else:
            assert ast.literal_eval(table[name]) == default, name


def test_the_docs_list_the_fields_that_are_ours_alone():
    text = DOCS.read_text(encoding="utf-8")
    assert {name for name in OWN_FIELDS if f"`{name}`" not in text} == set()


def test_our_fields_are_arguments_of_keras_with_its_defaults(keras):
    signature, extra = keras_arguments(keras)
    theirs = signature | extra
    ours = {f.name: f.default for f in fields(LSTM)}
    assert {name for name in ours if name not in theirs} == OWN_FIELDS
    for name in set(ours) & set(theirs):
        assert ours[name] == theirs[name] or name == "units", name


def test_what_we_lack_of_keras_is_known(keras):
    """Each of these is answered elsewhere: docs/keras.md says where."""
    signature, extra = keras_arguments(keras)
    missing = (set(signature) | set(extra)) - {f.name for f in fields(LSTM)}
    assert missing == {"return_state", "stateful", "seed", "use_cudnn", "name", "trainable", "autocast"}
    keyword_only = inspect.signature(Bidirectional).parameters
    assert keyword_only["merge_mode"].default == "concat"
