// Send a file by HTTP resumable upload (draft-ietf-httpbis-resumable-upload), and continue it after interruptions.
//
// POST upload1        creates an upload for the form
// PATCH uploads/ID    sends the form from an offset; the answer is that of the upload API
// HEAD uploads/ID     after a pause: the offset to continue from
// GET uploads/ID      meanwhile: how many bytes the relay has; later: how the upload ended

import { newBoundary, withRecord } from "./unfinished.js";
import { BROKEN, CANCELLED, CANCELLED_LATE, LOST, UNREADABLE, answerOf, verdictOf, verdictOfJob } from "./verdict.js";
import { secondsOf } from "./words.js";

const LONGEST_PAUSE = 30; // seconds
const PATIENCE = 600; // seconds of pauses without progress
const QUICK = 30_000; // milliseconds for requests that are answered at once
const INTERVAL = 1000; // milliseconds between two requests for the progress
const SILENCE = 30_000; // milliseconds without an answer to these requests, after which the connection counts as lost
const ANSWER_LOST = 10; // answers to these requests that say that the upload has ended
const TRANSIENT = [408, 425, 429];
// Chromium repeats a request after a lost connection by itself, with an offset that is too small by then.
const AFTER_A_LOST_CONNECTION = [409, 423];
const TRANSIENT_OF_UPLOAD = [...TRANSIENT, ...AFTER_A_LOST_CONNECTION];
const STORAGE_FULL = 507;

/**
 * Send a file and resolve to the verdict, or to null if the relay has no room to keep an unfinished upload.
 * `on.sent(done, total)` is called with the bytes that the relay has, `on.checking()` when it has all of them,
 * `on.paused(words)` during a pause. Aborting the signal cancels the upload.
 */
export function sendResumably(file, { field, headers, signal, on }) {
  return withRecord([field, file.name, file.size, file.lastModified], (record) => {
    return new Upload(file, { field, headers, record, signal, on }).run();
  });
}

/** The form of one file (HTML, section 4.10.21.8). The browser reads the file while it is sent. */
function formOf(file, field, boundary) {
  const quoted = (text) => `"${text.replace(/\r/g, "%0D").replace(/\n/g, "%0A").replace(/"/g, "%22")}"`;
  const head = [
    `--${boundary}`,
    `Content-Disposition: form-data; name=${quoted(field)}; filename=${quoted(file.name)}`,
    `Content-Type: ${file.type || "application/octet-stream"}`,
  ];
  return new Blob([`${head.join("\r\n")}\r\n\r\n`, file, `\r\n--${boundary}--\r\n`]);
}

/** An attempt ended without a final answer. `verdict` is that of an answer that may be another one later. */
class Interrupted extends Error {
  constructor(reason, { verdict = BROKEN, least = 0 } = {}) {
    super(reason);
    this.verdict = verdict;
    this.least = least; // seconds of the next pause
  }
}

class Upload {
  #file;
  #form;
  #boundary;
  #headers;
  #record;
  #signal;
  #on;
  #acknowledged = 0;
  #isNew = false;

  constructor(file, { field, headers, record, signal, on }) {
    this.#file = file;
    this.#boundary = record.upload?.boundary ?? newBoundary();
    this.#form = formOf(file, field, this.#boundary);
    this.#headers = headers;
    this.#record = record;
    this.#signal = signal;
    this.#on = on;
  }

  async run() {
    let pauses = growing();
    let most = -1;
    for (;;) {
      try {
        return await this.#attempt();
      } catch (error) {
        if (this.#signal.aborted) return this.#cancelled();
        if (!(error instanceof Interrupted)) throw error;
        if (!(await isReadable(this.#file))) return this.#removed(UNREADABLE);
        if (this.#acknowledged > most) pauses = growing();
        most = Math.max(most, this.#acknowledged);
        const { value, done } = pauses.next();
        if (done || error.least > PATIENCE) return error.verdict;
        await this.#pause(error.message, Math.max(value, error.least));
        if (this.#signal.aborted) return this.#cancelled();
      }
    }
  }

  async #attempt() {
    if (this.#record.upload) {
      const verdict = await this.#findOffset();
      if (verdict) return verdict;
    }
    if (!this.#record.upload) {
      const response = await this.#create();
      if (response.status === STORAGE_FULL) return null;
      if (!this.#record.upload) return verdictOf(await answerOf(response));
    }
    return this.#append();
  }

  async #create() {
    const response = await this.#request("upload1", "POST", {
      "Content-Type": `multipart/form-data; boundary=${this.#boundary}`,
      "Upload-Complete": "?0",
      "Upload-Length": String(this.#form.size),
      "Upload-Draft-Interop-Version": "8",
    });
    if (response.status === STORAGE_FULL) return response;
    await throwIfTransient(response, TRANSIENT);
    // Only the last part of its URL: a proxy may serve the relay below a path that the relay does not know.
    const id = response.ok && response.headers.get("Location")?.split("/").pop();
    if (id) {
      this.#record.save({ id, boundary: this.#boundary });
      this.#isNew = true;
    }
    return response;
  }

  /** Ask where to continue. Resolve to the verdict if the upload has ended, to null if it continues or is gone. */
  async #findOffset() {
    const response = await this.#request(this.#path, "HEAD");
    await throwIfTransient(response, TRANSIENT_OF_UPLOAD);
    if (response.ok && response.headers.get("Upload-Complete") !== "?1") {
      this.#note(Number(response.headers.get("Upload-Offset")));
      return null;
    }
    const described = await this.#request(this.#path, "GET");
    await throwIfTransient(described, TRANSIENT_OF_UPLOAD);
    const job = described.ok && (await described.json());
    if (job && job.state !== "running") return this.#ended(verdictOfJob(job));
    if (job) throw new Interrupted("The relay does not tell how far the upload has come.");
    if (![404, 410].includes(described.status)) return verdictOf(await answerOf(described));
    return this.#ended(this.#isNew ? LOST : null);
  }

  async #append() {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    this.#signal.addEventListener("abort", stop);
    this.#note(this.#acknowledged);
    this.#watch(attempt);
    let response, answer;
    try {
      response = await fetch(this.#path, {
        method: "PATCH",
        headers: {
          ...this.#headers,
          "Content-Type": "application/partial-upload",
          "Upload-Complete": "?1",
          "Upload-Offset": String(this.#acknowledged),
        },
        body: this.#form.slice(this.#acknowledged),
        signal: attempt.signal,
      });
      answer = await answerOf(response);
    } catch {
      throw new Interrupted("Connection lost.");
    } finally {
      attempt.abort();
      this.#signal.removeEventListener("abort", stop);
    }
    const verdict = verdictOf(answer);
    const isComplete = response.headers.get("Upload-Complete") === "?1";
    if (!isComplete) throwIfTransientAnswer(response, verdict, TRANSIENT_OF_UPLOAD);
    return verdict.kind === "token" && !isComplete ? verdict : this.#ended(verdict);
  }

  /** Show the progress until `attempt` ends; end it if the relay is silent, or has an answer that does not arrive. */
  async #watch(attempt) {
    let heard = Date.now();
    let ended = 0;
    for (;;) {
      await sleep(INTERVAL);
      if (attempt.signal.aborted) return;
      try {
        const response = await this.#request(this.#path, "GET");
        const job = response.ok && (await response.json());
        if (attempt.signal.aborted) return;
        heard = Date.now();
        if (job && job.state !== "running") ended += 1;
        else if (job && job.received > this.#acknowledged) this.#note(job.received);
      } catch {
        // counts as silence
      }
      if (ended >= ANSWER_LOST || Date.now() - heard > SILENCE) attempt.abort();
    }
  }

  async #pause(reason, seconds) {
    let isOnline = false;
    const wake = () => (isOnline = true);
    addEventListener("online", wake);
    for (let left = Math.ceil(seconds); left > 0 && !isOnline && !this.#signal.aborted; left -= 1) {
      this.#on.paused(`${reason} Trying again in ${left} s.`);
      await sleep(1000);
    }
    removeEventListener("online", wake);
  }

  #note(acknowledged) {
    this.#acknowledged = acknowledged;
    if (acknowledged >= this.#form.size) this.#on.checking();
    else this.#on.sent(acknowledged, this.#form.size);
  }

  #ended(verdict) {
    this.#record.forget();
    return verdict;
  }

  #cancelled() {
    return this.#removed(this.#acknowledged >= this.#form.size ? CANCELLED_LATE : CANCELLED);
  }

  #removed(verdict) {
    if (this.#record.upload) {
      fetch(this.#path, { method: "DELETE", headers: this.#headers, keepalive: true }).catch(() => {});
    }
    return this.#ended(verdict);
  }

  get #path() {
    return `uploads/${encodeURIComponent(this.#record.upload.id)}`;
  }

  async #request(path, method, headers = {}) {
    try {
      const options = { method, headers: { ...this.#headers, ...headers }, cache: "no-store" };
      return await fetch(path, { ...options, signal: AbortSignal.timeout(QUICK) });
    } catch {
      throw new Interrupted("Connection lost.");
    }
  }
}

/** Seconds of the pauses between attempts. */
function* growing() {
  let pause = 1;
  for (let waited = 0; waited < PATIENCE; waited += pause) {
    yield pause;
    pause = Math.min(2 * pause, LONGEST_PAUSE);
  }
}

async function throwIfTransient(response, statuses) {
  if (response.status < 500 && !statuses.includes(response.status)) return;
  throwIfTransientAnswer(response, verdictOf(await answerOf(response)), statuses);
}

function throwIfTransientAnswer({ status, headers }, verdict, statuses) {
  if (status < 500 && !statuses.includes(status)) return;
  const reason = AFTER_A_LOST_CONNECTION.includes(status) ? "Connection lost." : reasonOf(verdict);
  throw new Interrupted(reason, { verdict, least: secondsOf(headers.get("Retry-After")) });
}

/** The title of a verdict, and the detail if it says which limit was met. */
function reasonOf({ title, detail, answer, wait }) {
  const sentence = `${title.replace(/\.$/, "")}.`;
  return wait && !answer && detail ? `${sentence} ${detail}` : sentence;
}

async function isReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
