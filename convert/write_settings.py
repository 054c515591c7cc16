"""Settings files of an official release, from a model's configuration."""

import json
from typing import Any

from cosyjax.config import ModelConfig


def cosyvoice2_yaml(config: ModelConfig) -> str:
  """`cosyvoice2.yaml`: the objects that the public code builds, and their sizes."""
  audio, lm, flow, hift = config.audio, config.lm, config.flow, config.vocoder
  encoder, unet = flow.encoder, flow.estimator
  rows = lambda value: json.dumps(value)
  return f"""\
# Sizes of a model exported by cosyjax.
sample_rate: {audio.sample_rate}
llm_input_size: {lm.width}
llm_output_size: {lm.width}
spk_embed_dim: {flow.speaker_dim}
qwen_pretrain_path: ''
token_frame_rate: {audio.sample_rate // audio.samples_per_token}
token_mel_ratio: {audio.frames_per_token}
chunk_size: {flow.chunk}
num_decoding_left_chunks: -1

llm: !new:cosyvoice.llm.llm.Qwen2LM
    llm_input_size: !ref <llm_input_size>
    llm_output_size: !ref <llm_output_size>
    speech_token_size: {lm.speech_vocab.codebook_size}
    mix_ratio: [{lm.mix_text}, {lm.mix_speech}]
    llm: !new:cosyvoice.llm.llm.Qwen2Encoder
        pretrain_path: !ref <qwen_pretrain_path>
    sampling: !name:cosyvoice.utils.common.ras_sampling
        top_p: {lm.top_p}
        top_k: {lm.top_k}
        win_size: {lm.repeat_window}
        tau_r: {lm.repeat_rate}

flow: !new:cosyvoice.flow.flow.CausalMaskedDiffWithXvec
    input_size: {flow.token_width}
    output_size: {flow.mel_bins}
    spk_embed_dim: !ref <spk_embed_dim>
    vocab_size: {flow.codebook_size}
    input_frame_rate: !ref <token_frame_rate>
    token_mel_ratio: !ref <token_mel_ratio>
    pre_lookahead_len: {encoder.lookahead}
    encoder: !new:cosyvoice.transformer.upsample_encoder.UpsampleConformerEncoder
        output_size: {encoder.width}
        attention_heads: {encoder.heads}
        linear_units: {encoder.ffn}
        num_blocks: {encoder.layers}
        dropout_rate: 0.1
        positional_dropout_rate: 0.1
        attention_dropout_rate: 0.1
        normalize_before: True
        input_layer: 'linear'
        pos_enc_layer_type: 'rel_pos_espnet'
        selfattention_layer_type: 'rel_selfattn'
        input_size: {flow.token_width}
        use_cnn_module: False
        macaron_style: False
        static_chunk_size: !ref <chunk_size>
    decoder: !new:cosyvoice.flow.flow_matching.CausalConditionalCFM
        in_channels: {3 * flow.mel_bins}
        n_spks: 1
        spk_emb_dim: {flow.mel_bins}
        cfm_params: !new:omegaconf.DictConfig
            content:
                sigma_min: {flow.sigma_min}
                solver: 'euler'
                t_scheduler: 'cosine'
                training_cfg_rate: 0.2
                inference_cfg_rate: {flow.guidance}
                reg_loss_type: 'l1'
        estimator: !new:cosyvoice.flow.decoder.CausalConditionalDecoder
            in_channels: {4 * flow.mel_bins}
            out_channels: {flow.mel_bins}
            channels: [{unet.channels}]
            dropout: 0.0
            attention_head_dim: {unet.head_dim}
            n_blocks: {unet.transformer_layers}
            num_mid_blocks: {unet.mid_layers}
            num_heads: {unet.heads}
            act_fn: 'gelu'
            static_chunk_size: !ref <chunk_size> * <token_mel_ratio>
            num_decoding_left_chunks: !ref <num_decoding_left_chunks>

hift: !new:cosyvoice.hifigan.generator.HiFTGenerator
    in_channels: {hift.mel_bins}
    base_channels: {hift.channels}
    nb_harmonics: {hift.harmonics}
    sampling_rate: !ref <sample_rate>
    nsf_alpha: {hift.source_amplitude}
    nsf_sigma: {hift.source_noise}
    nsf_voiced_threshold: {hift.voiced_threshold}
    upsample_rates: {rows(hift.upsample_rates)}
    upsample_kernel_sizes: {rows(hift.upsample_kernels)}
    istft_params:
        n_fft: {hift.n_fft}
        hop_len: {hift.hop}
    resblock_kernel_sizes: {rows(hift.resblock_kernels)}
    resblock_dilation_sizes: {rows(hift.resblock_dilations)}
    source_resblock_kernel_sizes: {rows(hift.source_kernels)}
    source_resblock_dilation_sizes: {rows(hift.source_dilations)}
    lrelu_slope: {hift.leaky_slope}
    audio_limit: {hift.audio_limit}
    f0_predictor: !new:cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor
        num_class: 1
        in_channels: {hift.mel_bins}
        cond_channels: {hift.f0_channels}

get_tokenizer: !name:cosyvoice.tokenizer.tokenizer.get_qwen_tokenizer
    token_path: !ref <qwen_pretrain_path>
    skip_special_tokens: True
allowed_special: 'all'
feat_extractor: !name:matcha.utils.audio.mel_spectrogram
    n_fft: {audio.n_fft}
    num_mels: {audio.mel_bins}
    sampling_rate: !ref <sample_rate>
    hop_size: {audio.hop}
    win_size: {audio.win}
    fmin: {audio.fmin:g}
    fmax: {"null" if audio.fmax is None else f"{audio.fmax:g}"}
    center: False
"""


def qwen_config(config: ModelConfig) -> dict[str, Any]:
  """`CosyVoice-BlankEN/config.json`: the stack that Transformers builds."""
  lm = config.lm
  return {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": lm.width,
    "intermediate_size": lm.ffn,
    "num_hidden_layers": lm.layers,
    "num_attention_heads": lm.heads,
    "num_key_value_heads": lm.kv_heads,
    "vocab_size": lm.text_vocab,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": lm.norm_eps,
    "rope_theta": lm.rope_theta,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "attention_dropout": 0.0,
    "torch_dtype": "float32",
  }
