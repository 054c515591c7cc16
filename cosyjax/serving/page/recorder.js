// A recording from the microphone, as WAV bytes.

const LONGEST = 30; // seconds

export function wav(parts, rate) {
  const length = parts.reduce((n, p) => n + p.length, 0);
  const data = new DataView(new ArrayBuffer(44 + 2 * length));
  const word = (at, text) => [...text].forEach((c, i) => data.setUint8(at + i, c.charCodeAt(0)));
  word(0, "RIFF"); data.setUint32(4, 36 + 2 * length, true); word(8, "WAVEfmt ");
  data.setUint32(16, 16, true); data.setUint16(20, 1, true); data.setUint16(22, 1, true);
  data.setUint32(24, rate, true); data.setUint32(28, 2 * rate, true); data.setUint16(32, 2, true); data.setUint16(34, 16, true);
  word(36, "data"); data.setUint32(40, 2 * length, true);
  let at = 44;
  for (const part of parts) for (const v of part) {
    const value = part instanceof Int16Array ? v : Math.round(Math.max(-1, Math.min(1, v)) * 32767);
    data.setInt16(at, value, true); at += 2;
  }
  return new Blob([data.buffer], { type: "audio/wav" });
}

export class Recorder {
  constructor(onSeconds) {
    this.onSeconds = onSeconds;
    this.running = false;
  }

  async start() {
    const quality = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
    this.media = await navigator.mediaDevices.getUserMedia({ audio: quality });
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule("/page/recorder_worklet.js");
    this.parts = [];
    this.taken = 0;
    const node = new AudioWorkletNode(this.context, "recorder", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => {
      if (!this.running) return; // still on its way when the recording was stopped
      this.parts.push(data);
      this.taken += data.length;
      this.onSeconds(this.taken / this.context.sampleRate);
      if (this.taken > LONGEST * this.context.sampleRate) this.full?.();
    };
    this.running = true;
    this.context.createMediaStreamSource(this.media).connect(node);
  }

  async stop() {
    this.running = false;
    this.media.getTracks().forEach((track) => track.stop());
    const rate = this.context.sampleRate;
    await this.context.close();
    return { blob: wav(this.parts, rate), seconds: this.taken / rate };
  }
}
