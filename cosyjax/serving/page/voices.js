// Voices: the list, a recording of one's own, and what is kept on the server.

import { Recorder } from "./recorder.js";

const get = (id) => document.getElementById(id);

export class Voices {
  constructor(headers) {
    this.headers = headers;
    this.own = null; // {blob, seconds, name}: the recording that is there
    this.used = null; // {ref_audio, ref_text}: while it is used on this page
    this.recorder = new Recorder((seconds) => this.tell(`Recording: ${seconds.toFixed(1)} s`));
    this.recorder.full = () => this.toggle();
    get("record").onclick = () => this.toggle();
    get("file").onchange = (event) => event.target.files[0] && this.take(event.target.files[0], 0);
    get("consent").onchange = () => this.update();
    get("name").oninput = () => this.update();
    get("voice").onchange = () => this.update();
    get("use").onclick = () => this.use();
    get("keep").onclick = () => this.keep();
    get("remove").onclick = () => this.remove();
  }

  async load(choose) {
    const answer = await fetch("/v1/audio/voices", { headers: this.headers() });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    const { voices } = await answer.json();
    this.list = voices.filter((voice) => !voice.damaged);
    const select = get("voice"), before = choose ?? select.value;
    select.replaceChildren(...this.list.map((voice) => new Option(voice.name, voice.name)));
    if (this.used) select.append(new Option("Your recording (this page only)", "\u0000own"));
    if ([...select.options].some((option) => option.value === before)) select.value = before;
    this.update();
  }

  // What goes into session.config.
  get chosen() {
    const value = get("voice").value;
    return value === "\u0000own" ? { ...this.used } : { voice: value || undefined };
  }

  update() {
    const agreed = Boolean(this.own) && get("consent").checked;
    get("use").disabled = !agreed;
    get("keep").disabled = !agreed || !get("name").value.trim();
    const chosen = this.list?.find((voice) => voice.name === get("voice").value);
    get("remove").disabled = !chosen?.uploaded;
  }

  tell(text) { get("recorded").textContent = text; }

  fail(error) {
    get("voice-problem").textContent = error ? error.message ?? String(error) : "";
    get("voice-problem").hidden = !error;
  }

  async toggle() {
    this.fail(null);
    const button = get("record");
    try {
      if (this.recorder.running) {
        const { blob, seconds } = await this.recorder.stop();
        this.take(blob, seconds);
      } else {
        await this.recorder.start();
      }
    } catch (error) {
      this.fail(error.name === "NotAllowedError" ? new Error("The browser does not let this page use the microphone.") : error);
    }
    button.textContent = this.recorder.running ? "Stop recording" : "Record";
    button.classList.toggle("on", this.recorder.running);
  }

  take(blob, seconds) {
    this.own = { blob, seconds };
    this.tell(seconds ? `Recorded ${seconds.toFixed(1)} s.` : `${blob.name}: ${(blob.size / 1000).toFixed(0)} kB.`);
    const preview = get("preview");
    if (preview.src) URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(blob);
    preview.hidden = false;
    this.update();
  }

  async use() {
    this.fail(null);
    const bytes = new Uint8Array(await this.own.blob.arrayBuffer());
    let text = "";
    for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
    this.used = { ref_audio: btoa(text), ref_text: get("transcript").value };
    await this.load("\u0000own");
    this.tell("The recording is used on this page, and not kept.");
  }

  async keep() {
    this.fail(null);
    const form = new FormData(), name = get("name").value.trim();
    form.append("audio_sample", this.own.blob, this.own.blob.name ?? "recording.wav");
    form.append("name", name);
    form.append("ref_text", get("transcript").value);
    form.append("consent", `${get("consent-words").textContent} Said on the page, ${new Date().toISOString()}.`);
    try {
      const answer = await fetch("/v1/audio/voices", { method: "POST", headers: this.headers(), body: form });
      const said = await answer.json();
      if (!answer.ok) throw new Error(said.error.message);
      await this.load(said.name);
      this.tell(`The voice is kept as ${said.name}.`);
    } catch (error) { this.fail(error); }
  }

  async remove() {
    this.fail(null);
    const name = get("voice").value;
    try {
      const answer = await fetch(`/v1/audio/voices/${encodeURIComponent(name)}`, { method: "DELETE", headers: this.headers() });
      if (!answer.ok) throw new Error((await answer.json()).error.message);
      await this.load();
      this.tell(`The voice ${name} is deleted.`);
    } catch (error) { this.fail(error); }
  }
}
