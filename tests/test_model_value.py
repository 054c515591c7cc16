"""A model is a value: other rates, mel settings and vocabularies are other numbers in the same classes."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import checkpoint, config, config_format, networks
from cosyjax.audio import kaldi_fbank, log_mel_16k, mel_spectrogram
from cosyjax.errors import CheckpointError, ConfigError
from cosyjax.flow import noise
from cosyjax.flow.chunk_solver import Chunk, advance, empty
from cosyjax.flow.flow_model import mel_lengths
from cosyjax.flow.generate import generate
from cosyjax.lm import decode, interleave, lm_objective, sequence
from cosyjax.lm.sampling import Greedy, NoisyArgmax
from cosyjax.lm.sequence import SPEECH, TEXT
from cosyjax.vocoder.chunk_vocoder import Exact

FORMAT_1 = Path(__file__).parent / "golden" / "config_format_1.json"

# As CosyVoice 3 has it, with 10 special rows instead of 200: start, end, turn and fill are rows of the speech table.
VOCAB_3 = config.SpeechVocab(
  codebook_size=81, special_rows=10, start=0, end=1, turn=2, fill=3, ends_known=tuple(range(10)), ends_streamed=(1,),
  own_rows=0, head_bias=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def other():
  """A small model whose every shared number differs from CosyVoice 2's: (configuration, modules, parameters)."""
  c = config.assemble(
    family="test",
    audio=config.AudioConfig(hop=240, n_fft=800, win=720, mel_bins=20, fmin=50.0, fmax=None, frames_per_token=4),
    speech_tokenizer=config.SpeechTokenizerConfig(mel_bins=32, width=16, heads=2, layers=1, fsq_dims=4),
    speaker=config.SpeakerConfig(
      mel_bins=24, speaker_dim=12, growth=4, width=8, head_channels=4, layers=(1,), kernels=(3,), dilations=(1,)
    ),
    lm=config.LMConfig(
      width=16, ffn=16, layers=1, heads=2, kv_heads=1, text_vocab=64, speech_vocab=VOCAB_3, mix_text=2, mix_speech=6
    ),
    flow=config.FlowConfig(
      token_width=8, chunk=3, steps=2,
      encoder=config.FlowEncoderConfig(width=8, heads=1, ffn=8, layers=1, up_layers=1),
      estimator=config.UNetConfig(channels=8, heads=1, head_dim=8, transformer_layers=1, mid_layers=1),
    ),
    vocoder=config.VocoderConfig(
      channels=16, f0_channels=8, harmonics=2, upsample_rates=(5, 4, 3), upsample_kernels=(11, 8, 7),
      resblock_kernels=(3,), resblock_dilations=((1,),), source_kernels=(3, 3, 3), source_dilations=((1,),) * 3,
    ),
  )  # fmt: skip
  return c, networks.networks(c), networks.random_params(c, 0)


def test_repeated_sizes_follow(other):
  c, audio = other[0], other[0].audio
  assert (audio.frame_rate, audio.token_rate, audio.samples_per_token) == (100, 25, 960)
  assert (c.flow.mel_bins, c.vocoder.mel_bins, c.flow.frames_per_token, c.vocoder.samples_per_frame) == (20, 20, 4, 240)
  assert c.flow.codebook_size == c.speech_vocab.codebook_size == c.speech_tokenizer.codebook_size == 81
  assert c.flow.speaker_dim == 12
  for part, changes in (("audio", {"hop": 480, "frames_per_token": 2}), ("audio", {"mel_bins": 21})):
    with pytest.raises(ConfigError, match="must agree"):
      dataclasses.replace(c, **{part: dataclasses.replace(getattr(c, part), **changes)})


@pytest.mark.parametrize("wrong", [{"hop": 490}, {"win": 2000}, {"n_fft": 1921}, {"hop": 2400, "frames_per_token": 1}])
def test_audio_that_cannot_be(wrong):
  with pytest.raises(ConfigError, match="audio"):
    config.AudioConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"end": 3}, {"ends_known": (0, 5)}, {"turn": 2}, {"own_rows": 0, "start": 3}])
def test_vocabularies_that_cannot_be(wrong):
  with pytest.raises(ConfigError, match="speech_vocab"):
    config.SpeechVocab(**wrong)


def test_a_recording_becomes_audio_again(other):
  c, modules, params = other
  rng, apply = np.random.default_rng(0), lambda name, *args: modules[name].apply({"params": params[name]}, *args)

  @jax.jit
  def prompt(wave_24k, wave_16k):
    mel, frames = mel_spectrogram(wave_24k, jnp.array([19_200]), c.audio)
    log_mel = log_mel_16k(wave_16k, jnp.array([12_800]), c.speech_tokenizer.mel_bins)
    fbank = kaldi_fbank(wave_16k, jnp.array([12_800]), c.speaker.mel_bins)
    return mel, frames, *apply("speech_tokenizer", *log_mel)[:2], apply("speaker", *fbank)

  waves = (0.1 * rng.normal(size=(1, n)).astype(np.float32) for n in (19_200, 12_800))
  mel, frames, tokens, count, speaker = jax.device_get(prompt(*waves))
  assert (mel.shape, frames, count, speaker.shape) == ((1, 80, 20), 80, 20, (1, 12))

  row = sequence.known_text_sequence([1, 2], [3, 4, 5], tokens[0], config=c.lm)
  assert row[0][[0, 6]].tolist() == [81, 83] and set(row[1].tolist()) == {TEXT, SPEECH}
  keys = jax.random.split(jax.random.key(0), 1)
  [out] = decode.generate(modules["lm"], params["lm"], [row], keys, [6], [6], sampler=Greedy())
  assert len(out.tokens_U) == 6 and out.tokens_U.max() < 81

  ids = np.concatenate([tokens, out.tokens_U[None]], axis=1)
  table = noise.noise_table(4 * 26, c.audio.mel_bins)
  flow = jax.jit(lambda *args: generate(modules["flow"], params["flow"], *args, chunk=c.flow.chunk))
  whole = np.asarray(flow(ids, jnp.array([26]), mel, jnp.array([80]), speaker, table))
  assert whole.shape == (1, 104, 20) and int(mel_lengths(c.flow, 26)) == 104

  # The same as a stream: the prompt and three more tokens, then the rest.
  state = empty(modules["flow"], params["flow"], 1, frames=4 * 48)
  step = jax.jit(lambda state, chunk: advance(modules["flow"], params["flow"], state, None, chunk))
  mels = []
  for first, size in ((0, 24), (24, 2)):
    ahead = min(c.flow.encoder.lookahead, 26 - first - size)
    pad = lambda x, length: np.pad(x, [(0, length - len(x)), *[(0, 0)] * (x.ndim - 1)])[None]
    part = slice(4 * first, 4 * (first + size))
    cond = np.zeros((104, 20), np.float32)
    cond[:80] = mel[0]
    blocks = (np.arange(26) // c.flow.chunk)[first : first + size].astype(np.int32)
    state, some = step(
      state,
      Chunk(
        tokens_bC3=pad(ids[0, first : first + size + ahead].astype(np.int32), 24 + c.flow.encoder.lookahead),
        lengths_b=np.array([size], np.int32), ahead_b=np.array([ahead], np.int32), blocks_bC=pad(blocks, 24),
        cond_bTM=pad(cond[part], 96), speaker_bE=speaker, noise_bTM=pad(table[part], 96),
      ),
    )  # fmt: skip
    mels.append(np.asarray(some[0, : 4 * size]))
  np.testing.assert_allclose(np.concatenate(mels), whole[0], atol=1e-4)

  new = whole[:, 80:]
  silent = jnp.zeros((1, 3)), jnp.zeros((1, 24 * 240, 3))
  wave, _ = jax.jit(lambda *args: apply("vocoder", *args))(new, jnp.array([24]), *silent)
  assert wave.shape == (1, 24 * c.audio.hop) and np.all(np.isfinite(wave))
  scheme = Exact(c.vocoder)
  run = jax.jit(
    lambda state, mel, n, last: scheme.step(
      modules["vocoder"], params["vocoder"], state, None, mel, n, last, None, zero_noise=True
    )
  )
  state, packets = scheme.empty(1), []
  for first, last in ((0, False), (12, True)):
    state, some, count = run(state, new[:, first : first + 12], jnp.array([12]), jnp.array([last]))
    packets.append(np.asarray(some[0, : int(count[0])]))
  np.testing.assert_allclose(np.concatenate(packets), wave[0], atol=1e-4)


def test_special_tokens_inside_the_speech_table(other):
  c, modules, params = other
  assert set(params["lm"]) == {"text_embedding", "speech_embedding", "stack", "head"}
  assert set(params["lm"]["head"]) == {"kernel"} and params["lm"]["head"]["kernel"].shape == (91, 16)
  row = sequence.training_row([1, 2, 3], np.arange(12), c.lm, interleaved=True)
  assert row.ids_L.tolist() == [81, 1, 2, *range(6), 3, 83, *range(6, 12)]
  assert row.targets_L.tolist() == [-1, -1, *range(6), 84, -1, *range(6, 12), 82]
  batch = {
    name: x[None] for name, x in zip(("ids_BL", "token_types_BL", "targets_BL"), dataclasses.astuple(row), strict=True)
  }
  batch |= {"segments_BL": np.ones((1, 17), np.int32), "positions_BL": np.arange(17)[None]}
  loss = jax.jit(lambda p: lm_objective.objective(modules["lm"], p, batch))(params["lm"])
  assert 3 < float(loss.total / loss.weight) < 6  # of 91 ids about equally likely, log 91 = 4.5


@pytest.mark.parametrize(("drawn", "count"), [(82, 6), (84, 60), (88, 60)])
def test_which_ids_end_a_segment(other, drawn, count):
  c, modules, params = other
  sampler = NoisyArgmax(jnp.zeros((64, 91)).at[:, drawn].set(1e4))
  keys = jax.random.split(jax.random.key(0), 1)
  rows = [sequence.known_text_sequence([], [3], config=c.lm)]
  [out] = decode.generate(modules["lm"], params["lm"], rows, keys, [2], [20], sampler=sampler)
  assert (len(out.tokens_U), out.ended) == (2, "end")  # every special id ends known text
  row = interleave.Interleaver(c.lm)
  tokens = list(
    interleave.stream_tokens(modules["lm"], params["lm"], row, [[1, 2, 3]], jax.random.key(0), sampler=sampler)
  )
  # The end comes at two tokens a text id; once the text has ended no other special id does, and twenty are the most.
  assert len(tokens) == count


def test_format_1_still_loads(tmp_path):
  c = config.tiny()
  params = {name: {"kernel": np.full((2, 3), i, np.float32)} for i, name in enumerate(config.COMPONENTS)}
  checkpoint.save_model(tmp_path / "m", c, params, lambda _: None)
  written = json.loads((tmp_path / "m/config.json").read_text())
  assert (written["format"], written["family"], written["model"]["flow"]["estimator"]["type"]) == (
    2,
    "cosyvoice2",
    "unet",
  )
  (tmp_path / "m/config.json").write_text(FORMAT_1.read_text())
  assert checkpoint.load_config(tmp_path / "m") == c
  for name, tree in params.items():
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
    np.testing.assert_array_equal(checkpoint.load_params(tmp_path / "m", name, abstract)["kernel"], tree["kernel"])


def test_parts_of_format_1_are_known_by_their_fields():
  old, new = json.loads(FORMAT_1.read_text())["model"], json.loads(json.dumps(config.to_dict(config.tiny())))
  for name in config.COMPONENTS:
    assert config_format.upgrade_part(name, old[name]) == new[name]
    assert config_format.upgrade_part(name, new[name]) == new[name]


@pytest.mark.parametrize("change", [{"estimator": {"type": "dit"}}, {"estimator": {}}])
def test_a_kind_of_network_that_is_not_there(tmp_path, change):
  data = json.loads(json.dumps(config.to_dict(config.tiny())))
  data["flow"] |= change
  info = {"format": 2, "family": data.pop("family"), "model": data}
  (tmp_path / "config.json").write_text(json.dumps(info))
  with pytest.raises(CheckpointError, match=r"model\.flow\.estimator\.type: expected one of \['unet'\]"):
    checkpoint.load_config(tmp_path)


def test_another_estimator_is_a_module_and_a_line(monkeypatch):
  import flax.linen as nn

  from cosyjax.flow import flow_model

  @dataclasses.dataclass(frozen=True)
  class LinearConfig:
    width: int = 4
    type = "linear"

  class Linear(nn.Module):
    config: LinearConfig
    dtype: object = jnp.float32
    training: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(self, x_BTM, mu_BTM, speaker_BM, cond_BTM, t_B, lengths_B, blocks, cache=None):
      y = jnp.concatenate([x_BTM, mu_BTM, cond_BTM], axis=-1)
      return nn.Dense(x_BTM.shape[-1])(nn.Dense(self.config.width)(y))

  monkeypatch.setitem(flow_model.ESTIMATORS, LinearConfig, Linear)
  c = dataclasses.replace(config.tiny().flow, estimator=LinearConfig())
  shapes = jax.eval_shape(networks.NETWORKS[type(c)].build(c, jnp.float32).init, jax.random.key(0),
                          *networks.NETWORKS[type(c)].init_arguments(c))["params"]  # fmt: skip
  assert set(shapes) == {"token_embedding", "encoder", "to_mel", "speaker", "linear"}
