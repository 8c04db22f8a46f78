// The result of an upload, from an HTTP answer or a job.
//
// answer     {status, type, retryAfter, body, binary, truncated}: the HTTP answer
// verdict    {kind, title, detail, wait, answer}: kind is stored, refused, failed, cancelled or token; wait is in how
//            many seconds another try may succeed, 0 if that is not known

import { secondsOf } from "./words.js";

const LIMIT_MET = [429, 503];

/** The answer that a response of fetch has. */
export async function answerOf(response) {
  return {
    status: response.status,
    type: response.headers.get("Content-Type") ?? "",
    retryAfter: response.headers.get("Retry-After"),
    body: await response.text(),
  };
}

/** The verdict of an answer. The relay refuses with a problem (RFC 9457); other answers are the upload API's. */
export function verdictOf(answer) {
  const problem = problemIn(answer);
  const wait = LIMIT_MET.includes(answer.status) ? secondsOf(answer.retryAfter) : 0;
  if (problem) {
    // The page says the time itself, in the time zone of the user.
    const detail = wait ? problem.detail.replace(/ ?Try again [^.]*\.$/, "") : problem.detail;
    return { kind: kindOf(answer.status), title: problem.title, detail, wait };
  }
  if (answer.status >= 200 && answer.status < 300) return { kind: "stored", title: "Stored", answer };
  const kind = kindOf(answer.status);
  const detail = kind === "token" ? "" : "The file may not have been stored.";
  return { kind, title: `The upload API answered ${answer.status}`, detail, wait, answer };
}

/** The verdict of a job that has ended. */
export function verdictOfJob(job) {
  if (job.state === "cancelled") return CANCELLED;
  if (job.state === "lost") return LOST;
  if (job.problem) return { kind: kindOf(job.problem.status), ...wordsOf(job.problem) };
  const { status, headers, body, body_encoding: encoding, truncated } = job.answer;
  const [, type = ""] = headers.find(([name]) => name.toLowerCase() === "content-type") ?? [];
  return verdictOf({ status, type, body, binary: encoding !== "utf-8", truncated });
}

export const CANCELLED = { kind: "cancelled", title: "Cancelled" };
export const CANCELLED_LATE = { ...CANCELLED, detail: "All bytes had been sent. The file may have been stored." };
export const BROKEN = {
  kind: "failed",
  title: "The connection was lost",
  detail: "The relay cannot be reached, or it closed the connection. The file may or may not have been stored.",
};
export const UNREADABLE = {
  kind: "failed",
  title: "The file cannot be read",
  detail: "It is a folder, or it was changed or deleted after it was chosen.",
};
export const LOST = {
  kind: "failed",
  title: "The relay was restarted",
  detail: "The upload was interrupted. The file may or may not have been stored.",
};

/** The body of an answer as text for the page. */
export function shown(answer) {
  if (answer.binary) return "(not text)";
  const rest = answer.truncated ? "\n…" : "";
  if (/\bjson\b/i.test(answer.type) && !rest) {
    try {
      return JSON.stringify(JSON.parse(answer.body), null, 2);
    } catch {
      return answer.body;
    }
  }
  return answer.body + rest;
}

function kindOf(status) {
  if (status === 401) return "token";
  return status < 500 ? "refused" : "failed";
}

function problemIn(answer) {
  if (!/^application\/problem\+json\b/i.test(answer.type)) return null;
  try {
    return wordsOf(JSON.parse(answer.body));
  } catch {
    return null;
  }
}

function wordsOf(problem) {
  return { title: String(problem.title ?? "Refused"), detail: String(problem.detail ?? "") };
}
