"""Audio in and out, and what the networks read of it.

`cosyjax.audio.stft` (a module, so its functions are imported from there) has the Fourier transforms.
"""

from cosyjax.audio.io import check_speech, check_target, read, resample, write
from cosyjax.audio.mixing import mix_down
from cosyjax.audio.prompt_checks import check_transcript, inspect_prompt
from cosyjax.audio.spectra import ENCODER_RATE, kaldi_fbank, log_mel_16k, mel_spectrogram

__all__ = [
  "ENCODER_RATE",
  "check_speech",
  "check_target",
  "check_transcript",
  "inspect_prompt",
  "kaldi_fbank",
  "log_mel_16k",
  "mel_spectrogram",
  "mix_down",
  "read",
  "resample",
  "write",
]
