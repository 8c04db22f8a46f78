// Have the relay fetch a URL: make a job and follow its events. EventSource cannot send a token, so fetch reads them.

import { BROKEN, answerOf, verdictOf, verdictOfJob } from "./verdict.js";

const TRIES = 5;

/**
 * Have the relay fetch `url`, and resolve to the verdict. `on.job(job)` is called with each new state of the job. If the
 * signal is aborted, the job is cancelled, and its last event gives the verdict.
 */
export async function ingest(url, { field, headers, signal, on }) {
  try {
    const response = await fetch("upload2", {
      method: "POST",
      headers: { ...headers, "Content-Type": "application/json", Prefer: "respond-async" },
      body: JSON.stringify({ [field]: url }),
    });
    if (response.status !== 202) return verdictOf(await answerOf(response));
    // Not its Location: a proxy may serve the relay below a path that the relay does not know.
    const path = `jobs/${encodeURIComponent((await response.json()).id)}`;
    const cancel = () => fetch(path, { method: "DELETE", headers }).catch(() => {});
    if (signal.aborted) cancel();
    signal.addEventListener("abort", cancel);
    return await follow(path, headers, on);
  } catch {
    return BROKEN;
  }
}

/** Read events until the last one. If the stream ends earlier, reconnect and continue after the last event received. */
async function follow(path, headers, on) {
  let seen = "";
  for (let failures = 0; failures < TRIES; failures += 1) {
    if (failures) await new Promise((resolve) => setTimeout(resolve, 1000 * failures));
    try {
      const response = await fetch(`${path}/events`, { headers: { ...headers, "Last-Event-ID": seen } });
      if (response.status !== 200) return verdictOf(await answerOf(response));
      for await (const { id, data } of events(response.body)) {
        const job = JSON.parse(data);
        if (job.state !== "running") return verdictOfJob(job);
        on.job(job);
        seen = id;
        failures = 0;
      }
    } catch {
      // handled like the end of the stream
    }
  }
  return BROKEN;
}

/** The events of a stream (HTML, section 9.2.6). The relay writes each field on one line. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s)));
      if (fields.data) yield fields;
    }
  }
}
