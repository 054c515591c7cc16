// The WebSocket of the server: text in, audio chunks with approximate word times out.

export class Session {
  // One for each utterance: what is still on its way from the last one cannot be taken for the next one's.
  constructor(key, { message, closed }) {
    const url = new URL("/v1/audio/speech/stream", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.queue = [];
    this.socket = new WebSocket(url, key ? ["cosyjax", `cosyjax.key.${key}`] : []);
    this.socket.onopen = () => { for (const text of this.queue.splice(0)) this.socket.send(text); };
    this.socket.onmessage = ({ data }) => this.live && message(this.read(JSON.parse(data)));
    this.socket.onclose = ({ code }) => this.live && closed(code);
    this.live = true;
  }

  read(message) {
    if (message.type === "audio.chunk") {
      const bytes = Uint8Array.from(atob(message.audio_b64), (c) => c.charCodeAt(0));
      message.pcm = new Int16Array(bytes.buffer, 0, bytes.length >> 1);
    }
    return message;
  }

  say(type, fields = {}) {
    const text = JSON.stringify({ type, ...fields });
    if (this.socket.readyState === 1) this.socket.send(text); else this.queue.push(text);
  }

  // Stops what is spoken, and hangs up.
  cancel() {
    this.live = false;
    this.queue = [];
    if (this.socket.readyState === 1) this.socket.send('{"type": "input.cancel"}');
    this.socket.close();
  }
}
