"""PyTorch names of `flow.pt` and where their tensors go.

The file has two spellings of one pattern: the encoder's two stacks (`encoders`,
`up_encoders`), and the UNet's stages, numbered lists of [convolution block, transformer
blocks, convolution].
"""

from typing import Any

from convert.engine import Rule, Table, Tensors, Transform, conv1d, copy, heads_in, heads_out, linear, pointwise
from cosyjax.config import FlowConfig, FlowEncoderConfig, UNetConfig
from cosyjax.errors import ConversionError

_STAGES = ((r"down_blocks\.0", "down"), (r"mid_blocks\.(\d+)", r"mid_\1"), (r"up_blocks\.0", "up"))


def table(config: FlowConfig) -> Table:
  """Rules for every tensor of the flow."""
  return Table((*_front(), *_encoder(config.encoder), *_unet(config.estimator)))


def config_of(yaml: dict[str, Any] | None, tensors: Tensors) -> FlowConfig:
  """Sizes of a flow from its tensors; what no shape tells, from `cosyvoice2.yaml` or the release's values.

  Args:
    yaml: the file as plain nested dicts, tags ignored; None if there is none.
    tensors: PyTorch name -> array.

  Raises:
    ConversionError: a tensor that gives a size is missing, or the file contradicts the tensors.
  """
  flow = (yaml or {}).get("flow") or {}
  decoder = flow.get("decoder") or {}
  matching = decoder.get("cfm_params") or {}
  matching = matching.get("content", matching)
  estimator = decoder.get("estimator") or {}

  def shape(name: str) -> tuple[int, ...]:
    if name not in tensors:
      raise ConversionError(f"flow: tensor {name}, which gives a size of the model, is missing")
    return tensors[name].shape

  def count(pattern: str) -> int:
    n = 0
    while pattern.format(n) in tensors:
      n += 1
    return n

  unet = "decoder.estimator."
  inner = shape(unet + "down_blocks.0.1.0.attn1.to_q.weight")[0]
  heads = _number(estimator, "num_heads", UNetConfig.heads)
  head_dim = _number(estimator, "attention_head_dim", inner // heads)
  if heads * head_dim != inner:
    raise ConversionError(
      f"flow: decoder.estimator has num_heads {heads} and attention_head_dim {head_dim},"
      f" but {unet}down_blocks.0.1.0.attn1.to_q.weight has {inner} rows"
    )
  codebook_size, token_width = shape("input_embedding.weight")
  mel_bins, speaker_dim = shape("spk_embed_affine_layer.weight")
  default = FlowConfig()
  return FlowConfig(
    codebook_size=codebook_size,
    token_width=token_width,
    mel_bins=mel_bins,
    frames_per_token=(shape("encoder.up_layer.conv.weight")[2] - 1) // 2,
    speaker_dim=speaker_dim,
    chunk=_number(flow.get("encoder") or {}, "static_chunk_size", _number(yaml or {}, "chunk_size", default.chunk)),
    guidance=float(_number(matching, "inference_cfg_rate", default.guidance)),
    sigma_min=float(_number(matching, "sigma_min", default.sigma_min)),
    encoder=FlowEncoderConfig(
      width=shape("encoder.after_norm.weight")[0],
      heads=shape("encoder.encoders.0.self_attn.pos_bias_u")[0],
      ffn=shape("encoder.encoders.0.feed_forward.w_1.weight")[0],
      layers=count("encoder.encoders.{}.norm_mha.weight"),
      up_layers=count("encoder.up_encoders.{}.norm_mha.weight"),
      lookahead=shape("encoder.pre_lookahead_layer.conv1.weight")[2] - 1,
    ),
    estimator=UNetConfig(
      channels=shape(unet + "final_proj.weight")[1],
      heads=heads,
      head_dim=head_dim,
      transformer_layers=count(unet + "down_blocks.0.1.{}.norm1.weight"),
      mid_layers=count(unet + "mid_blocks.{}.0.res_conv.weight"),
    ),
  )


def _number(section: dict[str, Any], name: str, default: Any) -> Any:
  """A number of the default's type; what is none (an unresolved reference, say) gives the default."""
  value = section.get(name)
  if isinstance(value, str):  # YAML 1.1 takes 1e-06 for a string
    try:
      value = float(value)
    except ValueError:
      return default
  if isinstance(value, bool) or not isinstance(value, int | float):
    return default
  return type(default)(value)


def _layer(pattern: str, path: str, kernel: Transform, bias: Transform | None = copy) -> list[Rule]:
  """A weight, and a bias unless its transform is None."""
  rules = [Rule(rf"{pattern}\.weight", f"{path}/kernel", kernel)]
  return rules if bias is None else [*rules, Rule(rf"{pattern}\.bias", f"{path}/bias", bias)]


def _norm(pattern: str, path: str) -> list[Rule]:
  return [Rule(rf"{pattern}\.weight", f"{path}/scale"), Rule(rf"{pattern}\.bias", f"{path}/bias")]


def _front() -> list[Rule]:
  return [
    Rule(r"input_embedding\.weight", "token_embedding/embedding"),
    *_layer("spk_embed_affine_layer", "speaker", linear),
    *_layer("encoder_proj", "to_mel", linear),
  ]


def _encoder(config: FlowEncoderConfig) -> list[Rule]:
  out, into = heads_out(config.heads), heads_in(config.heads)
  rules = [*_norm(r"encoder\.after_norm", "encoder/norm")]
  for name in ("embed", "up_embed"):
    rules += _layer(rf"encoder\.{name}\.out\.0", f"encoder/{name}/linear", linear)
    rules += _norm(rf"encoder\.{name}\.out\.1", f"encoder/{name}/norm")
  rules += _layer(r"encoder\.pre_lookahead_layer\.conv1", "encoder/lookahead/ahead", conv1d)
  rules += _layer(r"encoder\.pre_lookahead_layer\.conv2", "encoder/lookahead/smooth", conv1d)
  rules += _layer(r"encoder\.up_layer\.conv", "encoder/upsample", conv1d)
  for theirs, ours in (("encoders", "block"), ("up_encoders", "up_block")):
    theirs, ours = rf"encoder\.{theirs}\.(\d+)", rf"encoder/{ours}_\1"
    for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
      rules += _layer(rf"{theirs}\.self_attn\.linear_{letter}", f"{ours}/attention/{name}", out, out)
    rules += _layer(rf"{theirs}\.self_attn\.linear_pos", f"{ours}/attention/position", out, None)
    rules += _layer(rf"{theirs}\.self_attn\.linear_out", f"{ours}/attention/out", into)
    rules.append(Rule(rf"{theirs}\.self_attn\.pos_bias_u", f"{ours}/attention/content_bias"))
    rules.append(Rule(rf"{theirs}\.self_attn\.pos_bias_v", f"{ours}/attention/position_bias"))
    rules += _layer(rf"{theirs}\.feed_forward\.w_1", f"{ours}/up", linear)
    rules += _layer(rf"{theirs}\.feed_forward\.w_2", f"{ours}/down", linear)
    rules += _norm(rf"{theirs}\.norm_mha", f"{ours}/attention_norm")
    rules += _norm(rf"{theirs}\.norm_ff", f"{ours}/mlp_norm")
  return rules


def _unet(config: UNetConfig) -> list[Rule]:
  out, into = heads_out(config.heads), heads_in(config.heads)
  root = r"decoder\.estimator\."
  rules = [
    *_layer(root + r"time_mlp\.linear_1", "unet/time/up", linear),
    *_layer(root + r"time_mlp\.linear_2", "unet/time/out", linear),
    *_layer(root + r"down_blocks\.0\.2", "unet/down_conv/conv", conv1d),
    *_layer(root + r"up_blocks\.0\.2", "unet/up_conv/conv", conv1d),
    *_layer(root + r"final_block\.block\.0", "unet/last/causal/conv", conv1d),
    *_norm(root + r"final_block\.block\.2", "unet/last/norm"),
    *_layer(root + r"final_proj", "unet/to_mel", pointwise),
  ]
  for theirs, ours in _STAGES:
    res, ours_res = rf"{root}{theirs}\.0", f"unet/{ours}/res"
    rules += _layer(rf"{res}\.mlp\.1", f"{ours_res}/time", linear)
    rules += _layer(rf"{res}\.res_conv", f"{ours_res}/around", pointwise)
    for i in range(2):
      rules += _layer(rf"{res}\.block{i + 1}\.block\.0", f"{ours_res}/unit_{i}/causal/conv", conv1d)
      rules += _norm(rf"{res}\.block{i + 1}\.block\.2", f"{ours_res}/unit_{i}/norm")
    number = r"\2" if "(" in theirs else r"\1"
    block, ours_block = rf"{root}{theirs}\.1\.(\d+)", f"unet/{ours}/block_{number}"
    for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
      rules += _layer(rf"{block}\.attn1\.to_{letter}", f"{ours_block}/{name}", out, None)
    rules += _layer(rf"{block}\.attn1\.to_out\.0", f"{ours_block}/out", into)
    rules += _norm(rf"{block}\.norm1", f"{ours_block}/attention_norm")
    rules += _norm(rf"{block}\.norm3", f"{ours_block}/mlp_norm")
    rules += _layer(rf"{block}\.ff\.net\.0\.proj", f"{ours_block}/up", linear)
    rules += _layer(rf"{block}\.ff\.net\.2", f"{ours_block}/down", linear)
  return rules
