"""Audio in and out, and what the networks read of it.

`cosyjax.audio.stft` (a module, so its functions are imported from there) has the Fourier transforms.
"""

from cosyjax.audio.io import check_speech, check_target, read, resample, write
from cosyjax.audio.spectra import kaldi_fbank, log_mel_16k, mel_24k

__all__ = ["check_speech", "check_target", "kaldi_fbank", "log_mel_16k", "mel_24k", "read", "resample", "write"]
