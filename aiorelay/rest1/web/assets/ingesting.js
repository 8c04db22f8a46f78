// An address, fetched by the relay: a job, followed by its events. EventSource could not send a token.

import { BROKEN, verdictOf, verdictOfJob } from "./verdict.js";

const TRIES = 5;

/**
 * Have the relay fetch `url`, and give the verdict. `on.job(job)` is called with every news of it; aborting the signal
 * cancels the job, which then says so itself.
 */
export async function ingest(url, { field, token, signal, on }) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  try {
    const response = await fetch("upload2", {
      method: "POST",
      headers: { ...headers, "Content-Type": "application/json", Prefer: "respond-async" },
      body: JSON.stringify({ [field]: url }),
    });
    if (response.status !== 202) return verdictOf(await answerOf(response));
    // Not its Location: the relay does not know below which path it is reached.
    const path = `jobs/${encodeURIComponent((await response.json()).id)}`;
    const cancel = () => fetch(path, { method: "DELETE", headers }).catch(() => {});
    if (signal.aborted) cancel();
    signal.addEventListener("abort", cancel);
    return await follow(path, headers, on);
  } catch {
    return BROKEN;
  }
}

/** Read events until the last one; a stream that ends before is taken up again where it ended. */
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
      // as if the stream had ended
    }
  }
  return BROKEN;
}

/** The events in a stream (HTML, section 9.2.6), as far as this relay writes them: one line a field. */
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

async function answerOf(response) {
  return {
    status: response.status,
    type: response.headers.get("Content-Type") ?? "",
    body: await response.text(),
  };
}
