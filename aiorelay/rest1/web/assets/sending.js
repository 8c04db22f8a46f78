// Send a file as a form: as a resumable upload if the relay accepts those, else in one request.

import { sendResumably } from "./resuming.js";
import { BROKEN, CANCELLED, UNREADABLE, verdictOf } from "./verdict.js";

/**
 * Send a file and resolve to the verdict. `on.sent(done, total)` is called during the upload, `on.checking()` when all
 * bytes are sent, `on.paused(words)` while an interrupted upload waits. Aborting the signal cancels the upload.
 */
export async function send(file, options) {
  return (options.resumable && (await sendResumably(file, options))) || sendPlainly(file, options);
}

/** XMLHttpRequest reports upload progress; fetch does not. */
function sendPlainly(file, { field, headers, signal, on }) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    form.append(field, file);
    request.upload.onprogress = ({ loaded, total }) => on.sent(loaded, total);
    request.upload.onload = () => on.checking();
    request.onload = () => resolve(verdictOf(answerOf(request)));
    request.onerror = () => file.slice(0, 1).arrayBuffer().then(() => resolve(BROKEN), () => resolve(UNREADABLE));
    request.onabort = () => resolve(CANCELLED);
    request.open("POST", "upload1");
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

function answerOf(request) {
  return {
    status: request.status,
    type: request.getResponseHeader("Content-Type") ?? "",
    retryAfter: request.getResponseHeader("Retry-After"),
    body: request.responseText,
  };
}
