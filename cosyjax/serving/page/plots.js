// Waveform and mel spectrogram, drawn while audio arrives.

import { RATE } from "./player.js";

const SIZE = 1024, HOP = 480, BINS = 80, TOP = 8000;

// In place, radix 2.
function fft(re, im) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) { [re[i], re[j]] = [re[j], re[i]]; [im[i], im[j]] = [im[j], im[i]]; }
  }
  for (let len = 2; len <= n; len <<= 1) {
    const step = (-2 * Math.PI) / len;
    for (let i = 0; i < n; i += len) {
      for (let k = 0; k < len / 2; k++) {
        const c = Math.cos(step * k), s = Math.sin(step * k), a = i + k, b = a + len / 2;
        const x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
        re[b] = re[a] - x; im[b] = im[a] - y; re[a] += x; im[a] += y;
      }
    }
  }
}

const toMel = (hz) => 2595 * Math.log10(1 + hz / 700), toHz = (mel) => 700 * (10 ** (mel / 2595) - 1);
const EDGES = Array.from({ length: BINS + 2 }, (_, i) => (toHz((toMel(TOP) * i) / (BINS + 1)) * SIZE) / RATE);
const WINDOW = Float32Array.from({ length: SIZE }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE));

function melFrame(samples, start) {
  const re = new Float32Array(SIZE), im = new Float32Array(SIZE);
  for (let i = 0; i < SIZE; i++) re[i] = (samples[start + i] ?? 0) / 32768 * WINDOW[i];
  fft(re, im);
  const out = new Float32Array(BINS);
  for (let b = 0; b < BINS; b++) {
    const [low, mid, high] = [EDGES[b], EDGES[b + 1], EDGES[b + 2]];
    let sum = 0;
    for (let k = Math.ceil(low); k <= high; k++) {
      const weight = Math.max(0, k < mid ? (k - low) / Math.max(mid - low, 1e-6) : (high - k) / Math.max(high - mid, 1e-6));
      sum += weight * Math.hypot(re[k], im[k]);
    }
    out[b] = Math.log(Math.max(sum, 1e-4));
  }
  return out;
}

// From dark to light, in equal steps of lightness.
const COLOURS = [[8, 9, 15], [44, 24, 84], [120, 38, 110], [196, 66, 86], [242, 130, 62], [252, 222, 150]];
function colour(value) {
  const x = Math.min(Math.max(value, 0), 0.9999) * (COLOURS.length - 1), i = Math.floor(x), f = x - i;
  return COLOURS[i].map((c, k) => Math.round(c + f * (COLOURS[i + 1][k] - c)));
}

export class Plots {
  constructor(wave, mel, head) {
    Object.assign(this, { wave, mel, head });
    this.clear();
  }

  clear() {
    this.samples = new Int16Array(1 << 16);
    this.length = 0;
    this.frames = [];
    this.span = 4; // seconds across
    this.head.style.display = "none";
    this.draw();
  }

  push(pcm) {
    if (this.length + pcm.length > this.samples.length) {
      const more = new Int16Array(Math.max(2 * this.samples.length, this.length + pcm.length));
      more.set(this.samples.subarray(0, this.length));
      this.samples = more;
    }
    this.samples.set(pcm, this.length);
    this.length += pcm.length;
    while (this.frames.length * HOP + SIZE <= this.length) this.frames.push(melFrame(this.samples, this.frames.length * HOP));
    while (this.length / RATE > this.span) this.span *= 2;
    this.draw();
  }

  draw() {
    const { wave, mel } = this, perPixel = (this.span * RATE) / wave.width;
    const brush = wave.getContext("2d"), middle = wave.height / 2;
    brush.clearRect(0, 0, wave.width, wave.height);
    brush.fillStyle = getComputedStyle(wave).color;
    brush.fillRect(0, middle - 0.5, wave.width, 1);
    for (let x = 0; x * perPixel < this.length; x++) {
      let low = 0, high = 0;
      for (let i = Math.floor(x * perPixel); i < Math.min((x + 1) * perPixel, this.length); i++) {
        low = Math.min(low, this.samples[i]); high = Math.max(high, this.samples[i]);
      }
      brush.fillRect(x, middle - (high / 32768) * middle, 1, Math.max(((high - low) / 32768) * middle, 1));
    }
    const paint = mel.getContext("2d"), image = paint.createImageData(mel.width, mel.height);
    const columns = (this.span * RATE) / HOP;
    for (let x = 0; x < mel.width; x++) {
      const frame = this.frames[Math.floor((x / mel.width) * columns)];
      for (let y = 0; y < mel.height; y++) {
        const [r, g, b] = frame ? colour((frame[BINS - 1 - Math.floor((y / mel.height) * BINS)] + 7) / 11) : COLOURS[0];
        image.data.set([r, g, b, 255], 4 * (y * mel.width + x));
      }
    }
    paint.putImageData(image, 0, 0);
  }

  at(place) {
    this.head.style.display = this.length ? "block" : "none";
    this.head.style.left = `${(100 * place) / this.span}%`;
  }
}
