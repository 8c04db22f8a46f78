// One upload in the list: its name, progress and result.

import { shown } from "./verdict.js";
import { left, share, tryAgain } from "./words.js";

const template = document.querySelector("template#upload");
const status = document.querySelector("#status");

export class Entry {
  /** `run({signal, on})` uploads and resolves to the verdict. `queue(entry)` queues the entry for `start`. */
  constructor(name, run, queue) {
    this.name = name;
    this.element = template.content.cloneNode(true).querySelector("li");
    this.#run = run;
    this.#queue = queue;
    this.#find(".name").textContent = name;
    this.#find("progress").setAttribute("aria-label", `Progress of ${name}`);
    for (const [kind, word] of [["cancel", "Cancel"], ["again", "Try again"]]) {
      this.#find(`.${kind}`).setAttribute("aria-label", `${word}: ${name}`);
    }
    this.#find(".cancel").addEventListener("click", () => this.#cancel());
    this.#find(".again").addEventListener("click", () => this.#again());
    this.wait();
  }

  #run;
  #queue;
  #controller = new AbortController();
  #began = null; // {at, done}: when the measured sending began, and with how many bytes
  #progress = null;

  get ended() {
    return ["stored", "refused", "failed", "cancelled"].includes(this.element.dataset.kind);
  }

  get cancelled() {
    return this.#controller.signal.aborted;
  }

  /** Show that the upload is waiting, for the queue or for a token. */
  wait(words = "Waiting") {
    this.#show("waiting", words);
  }

  /** Upload, and return the verdict. Show it unless a token is missing. */
  async start() {
    this.#began = null;
    this.#show("running", "Starting", { progress: null });
    const on = { sent: this.#sent, checking: this.#checking, paused: this.#paused, job: this.#job };
    const verdict = await this.#run({ signal: this.#controller.signal, on });
    if (verdict.kind !== "token") this.end(verdict);
    return verdict;
  }

  end({ kind, title, detail: reason = "", wait = 0, answer = null }) {
    const detail = [reason, tryAgain(wait)].filter(Boolean).join(" ");
    const hadFocus = this.#find(".cancel") === document.activeElement;
    this.#show(kind, title);
    this.#find(".detail").textContent = detail;
    this.#find(".detail").hidden = !detail;
    this.#find("details").hidden = !answer?.body;
    if (answer?.body) {
      this.#find("summary").textContent = `Answer of the upload API (${answer.status})`;
      this.#find("pre").textContent = shown(answer);
    }
    if (hadFocus) (kind === "stored" ? document.querySelector("#uploads-title") : this.#find(".again")).focus();
    status.textContent = `${this.name}: ${title}. ${detail}`;
  }

  #cancel() {
    this.#controller.abort();
    if (this.element.dataset.kind === "waiting") this.end({ kind: "cancelled", title: "Cancelled" });
    else this.#find(".state").textContent = "Cancelling";
  }

  #again() {
    this.#controller = new AbortController();
    this.#find(".detail").hidden = this.#find("details").hidden = true;
    this.wait();
    this.#find(".cancel").focus();
    this.#queue(this);
  }

  #sent = (done, total) => {
    this.#show("running", `Sending: ${share(done, total)}${this.#left(done, total)}`, { progress: done / total });
  };

  #paused = (words) => {
    if (this.cancelled) return;
    this.#began = null; // the time left is that at the rate after the pause
    this.#show("running", words, { progress: this.#progress });
  };

  #checking = () => this.#show("running", "Sent; waiting for the answer", { progress: null });

  #job = ({ received, total }) => {
    if (this.cancelled) return;
    if (total !== null && received >= total) return this.#show("running", "Fetched; waiting for the answer", { progress: null });
    const progress = total ? received / total : null;
    this.#show("running", `Fetching: ${share(received, total)}${this.#left(received, total)}`, { progress });
  };

  /** The estimated time left, at the rate since the upload was begun or continued. */
  #left(done, total) {
    this.#began ??= { at: performance.now(), done };
    return left(done - this.#began.done, total - this.#began.done, (performance.now() - this.#began.at) / 1000);
  }

  #show(kind, words, { progress = 0 } = {}) {
    this.element.dataset.kind = kind;
    this.#find(".state").textContent = words;
    this.#progress = progress;
    const bar = this.#find("progress");
    bar.hidden = kind !== "running";
    if (progress === null) bar.removeAttribute("value");
    else bar.value = progress;
    const over = this.ended;
    this.#find(".cancel").hidden = over;
    this.#find(".again").hidden = !over || kind === "stored";
  }

  #find(selector) {
    return this.element.querySelector(selector);
  }
}
