// A file, sent as a form of one part. XMLHttpRequest tells how far the sending is; fetch does not.

import { BROKEN, CANCELLED, UNREADABLE, verdictOf } from "./verdict.js";

/**
 * Send a file and give the verdict. `on.sent(done, total)` is called while it goes out, `on.checking()` once all of it
 * is on its way; aborting the signal ends it.
 */
export function send(file, { field, token, signal, on }) {
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
    if (token) request.setRequestHeader("Authorization", `Bearer ${token}`);
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

function answerOf(request) {
  return {
    status: request.status,
    type: request.getResponseHeader("Content-Type") ?? "",
    body: request.responseText,
  };
}
