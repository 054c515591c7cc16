// Hands on what the microphone hears.
class RecorderProcessor extends AudioWorkletProcessor {
  process([input]) {
    if (input[0]) this.port.postMessage(input[0].slice());
    return true;
  }
}
registerProcessor("recorder", RecorderProcessor);
