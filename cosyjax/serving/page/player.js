// Plays audio while it arrives, and knows where it is.

export const RATE = 24000;
const AHEAD = 0.08; // seconds between a chunk's arrival and its sound, where nothing plays yet

export class Player {
  constructor() {
    this.context = null;
    this.reset();
  }

  // Has to be called from a click or a key: browsers let no page sound by itself.
  async wake() {
    this.context ??= new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
    await this.context.resume();
  }

  reset() {
    for (const source of this.sources ?? []) { source.onended = null; try { source.stop(); } catch { /* not started */ } }
    this.sources = new Set();
    this.chunks = []; // {at, from, samples}: context time, place in the stream
    this.samples = 0;
    this.until = 0;
    this.gaps = 0;
    this.complete = false;
  }

  // Int16Array of mono samples.
  push(pcm) {
    if (!pcm.length) return;
    const buffer = this.context.createBuffer(1, pcm.length, RATE);
    const values = buffer.getChannelData(0);
    for (let i = 0; i < pcm.length; i++) values[i] = pcm[i] / 32768;
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    const now = this.context.currentTime;
    if (this.until < now) {
      if (this.samples) this.gaps++;
      this.until = now + AHEAD;
    }
    source.start(this.until);
    source.onended = () => this.sources.delete(source);
    this.sources.add(source);
    this.chunks.push({ at: this.until, from: this.samples, samples: pcm.length });
    this.samples += pcm.length;
    this.until += pcm.length / RATE;
  }

  // Seconds of the stream that have been heard.
  get place() {
    if (!this.context || !this.chunks.length) return 0;
    const now = this.context.currentTime - (this.context.outputLatency || 0);
    let place = 0;
    for (const { at, from, samples } of this.chunks) {
      if (at > now) break;
      place = (from + Math.min((now - at) * RATE, samples)) / RATE;
    }
    return place;
  }

  get playing() {
    return this.context !== null && this.chunks.length > 0 && this.context.currentTime < this.until;
  }
}
