"""PyTorch names of `llm.pt` and where their tensors go."""

from typing import Any

from convert.engine import Rule, Table, Tensors, Transform
from cosyjax.config import LMConfig, SpeechVocab
from cosyjax.errors import ConversionError

_LAYER = r"llm\.model\.model\.layers\.(\d+)\."
_TEXT = "llm.model.model.embed_tokens.weight"
_SPEECH = "speech_embedding.weight"


def _heads_out(count: int) -> Transform:
  """[heads*dim, in] -> [heads, dim, in], outputs first as they are; a bias likewise."""
  return Transform(lambda w: w.reshape(count, -1, *w.shape[1:]), lambda w: w.reshape(-1, *w.shape[2:]))


def _heads_in(count: int) -> Transform:
  """[out, heads*dim] -> [out, heads, dim]."""
  return Transform(lambda w: w.reshape(w.shape[0], count, -1), lambda w: w.reshape(w.shape[0], -1))


def table(config: LMConfig) -> Table:
  """Rules for every tensor of the language model. Linear layers keep PyTorch's order, outputs first."""
  heads = {"q": config.heads, "k": config.kv_heads, "v": config.kv_heads}
  rules = [
    Rule(r"llm_embedding\.weight", "special_embedding/embedding"),
    Rule(r"llm\.model\.model\.embed_tokens\.weight", "text_embedding/embedding"),
    Rule(r"speech_embedding\.weight", "speech_embedding/embedding"),
    Rule(r"llm_decoder\.weight", "head/kernel"),
    Rule(r"llm_decoder\.bias", "head/bias"),
    Rule(r"llm\.model\.model\.norm\.weight", "stack/norm/scale"),
    Rule(_LAYER + r"input_layernorm\.weight", r"stack/layers_\1/attention_norm/scale"),
    Rule(_LAYER + r"post_attention_layernorm\.weight", r"stack/layers_\1/mlp_norm/scale"),
    Rule(_LAYER + r"self_attn\.o_proj\.weight", r"stack/layers_\1/attention/o/kernel", _heads_in(config.heads)),
    Rule(_LAYER + r"mlp\.(gate|up|down)_proj\.weight", r"stack/layers_\1/mlp/\2/kernel"),
  ]
  for name, count in heads.items():
    for theirs, ours in (("weight", "kernel"), ("bias", "bias")):
      pattern = _LAYER + rf"self_attn\.{name}_proj\.{theirs}"
      rules.append(Rule(pattern, rf"stack/layers_\1/attention/{name}/{ours}", _heads_out(count)))
  ignored = (r"llm\.model\.lm_head\.weight", r"llm\.model\.model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
  return Table(tuple(rules), ignored)


def config_of(hf_config: dict[str, Any], tensors: Tensors, yaml: dict[str, Any] | None = None) -> LMConfig:
  """Sizes of a language model.

  Args:
    hf_config: `CosyVoice-BlankEN/config.json` as a dict.
    tensors: PyTorch name -> array of `llm.pt`, which must agree with it.
    yaml: `cosyvoice2.yaml` as nested dicts, tags ignored; the release's values hold where it is
      silent.

  Raises:
    ConversionError: a setting or a tensor is missing, they disagree, or the stack is of a
      kind that this library does not build.
  """
  try:
    rope = hf_config.get("rope_parameters") or hf_config.get("rope_scaling") or {}
    config = LMConfig(
      width=hf_config["hidden_size"],
      ffn=hf_config["intermediate_size"],
      layers=hf_config["num_hidden_layers"],
      heads=hf_config["num_attention_heads"],
      kv_heads=hf_config["num_key_value_heads"],
      text_vocab=tensors[_TEXT].shape[0],
      speech_vocab=SpeechVocab(tensors[_SPEECH].shape[0] - SpeechVocab.special_rows),
      rope_theta=float(hf_config["rope_theta"] if "rope_theta" in hf_config else rope["rope_theta"]),
      norm_eps=float(hf_config["rms_norm_eps"]),
      **_settings((yaml or {}).get("llm") or {}),
    )
  except KeyError as error:
    raise ConversionError(f"lm: {error.args[0]}, which gives a size of the model, is missing") from error
  problems = [f"expected {key} {right!r}, found {hf_config[key]!r}" for key, right in _BUILT.items()
              if hf_config.get(key, right) != right]  # fmt: skip
  if rope.get("rope_type", rope.get("type", "default")) != "default":
    problems.append(f"expected plain rotary embedding, found {rope}")
  problems += [
    f"tensor {name}: config.json and the other tensors call for {shape}, found {tensors[name].shape}"
    for name, shape in _shapes(config).items()
    if name in tensors and tensors[name].shape != shape
  ]
  stacked = {name.split(".")[4] for name in tensors if name.startswith("llm.model.model.layers.")}
  if stacked != {str(i) for i in range(config.layers)}:
    problems.append(f"config.json has num_hidden_layers {config.layers}, llm.pt has {len(stacked)} layers")
  if problems:
    raise ConversionError("lm: " + "; ".join(problems))
  return config


_BUILT = {"hidden_act": "silu", "use_sliding_window": False}  # settings with one supported value


def _shapes(c: LMConfig) -> dict[str, tuple[int, ...]]:
  """Shapes that one layer and the tables around the stack must have."""
  layer, kv = "llm.model.model.layers.0.", c.kv_heads * c.head_dim
  return {
    "llm_embedding.weight": (c.speech_vocab.own_rows, c.width),
    _TEXT: (c.text_vocab, c.width),
    _SPEECH: (c.speech_vocab.rows, c.width),
    "llm_decoder.weight": (c.speech_vocab.rows, c.width),
    layer + "self_attn.q_proj.weight": (c.heads * c.head_dim, c.width),
    layer + "self_attn.k_proj.weight": (kv, c.width),
    layer + "mlp.gate_proj.weight": (c.ffn, c.width),
  }


def _settings(llm: dict[str, Any]) -> dict[str, Any]:
  """What `cosyvoice2.yaml` says of interleaving and sampling, in our names."""
  sampling = llm.get("sampling")
  sampling = sampling if isinstance(sampling, dict) else {}
  theirs = {
    "top_p": sampling.get("top_p"),
    "top_k": sampling.get("top_k"),
    "repeat_window": sampling.get("win_size"),
    "repeat_rate": sampling.get("tau_r"),
  }
  if llm.get("mix_ratio"):
    theirs["mix_text"], theirs["mix_speech"] = llm["mix_ratio"]
  return {name: type(getattr(LMConfig, name))(value) for name, value in theirs.items() if value is not None}
