// Shows what is said, the word of the moment marked.
//
// The server tells words as they are read ("five dollars"), with approximate times; what is shown is
// what was written ("$5"). Equal words are paired, and what lies between two pairs shares their time.

const CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af";
const WORD = new RegExp(`[${CJK}][^\\w\\s${CJK}]*|[^\\s${CJK}]+`, "gu");
const REACH = 8; // written words that a read one may lie ahead

const bare = (word) => word.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "");

export class Reading {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.words = []; // {span, key, start}
    this.paired = 0;
    this.now = -1;
    this.text = "";
  }

  // The text as written; may grow.
  write(text) {
    if (!text.startsWith(this.text) || text.length === this.text.length) {
      if (text === this.text) return;
      this.clear();
    }
    this.text = text;
    const found = [...text.matchAll(WORD)].map((m) => m[0]);
    found.forEach((word, i) => {
      if (i < this.words.length) {
        if (this.words[i].span.textContent !== word) { this.words[i].span.textContent = word; this.words[i].key = bare(word); }
        return;
      }
      const span = document.createElement("span");
      span.textContent = word;
      span.className = "next";
      if (this.element.childNodes.length) this.element.append(" ");
      this.element.append(span);
      this.words.push({ span, key: bare(word), start: null });
    });
  }

  // Words as they were read: {word, start, end}.
  hear(timed) {
    for (const { word, start } of timed) {
      const key = bare(word);
      const stop = Math.min(this.words.length, this.paired + REACH);
      let found = this.paired;
      while (found < stop && this.words[found].key !== key) found++;
      if (found === stop) {
        if (this.paired < this.words.length && this.words[this.paired].start === null) this.words[this.paired].start = start;
        continue;
      }
      for (let i = this.paired; i <= found; i++) this.words[i].start ??= start;
      this.paired = found + 1;
    }
  }

  // Marks the word that is spoken at a place of the stream, seconds.
  mark(place) {
    let now = -1;
    for (let i = 0; i < this.words.length && this.words[i].start !== null && this.words[i].start <= place; i++) now = i;
    if (now === this.now) return;
    this.now = now;
    this.words.forEach(({ span }, i) => { span.className = i < now ? "past" : i === now ? "now" : "next"; });
    if (now >= 0) {
      const span = this.words[now].span;
      const top = span.offsetTop - this.element.offsetTop;
      if (top < this.element.scrollTop || top > this.element.scrollTop + this.element.clientHeight - 30) this.element.scrollTop = top - 20;
    }
  }

  finish() {
    this.words.forEach(({ span }) => { span.className = "past"; });
    this.now = this.words.length;
  }
}
