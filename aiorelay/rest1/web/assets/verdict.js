// What an answer means, in words.
//
// answer     {status, type, body, binary, truncated}: what came over HTTP
// verdict    {kind, title, detail, answer}: kind is stored, refused, failed, cancelled or token

/** The verdict of an answer, whoever gave it: the relay refuses in problems (RFC 9457), the upload API as it likes. */
export function verdictOf(answer) {
  const problem = problemIn(answer);
  if (problem) return { kind: kindOf(answer.status), ...problem };
  if (answer.status >= 200 && answer.status < 300) return { kind: "stored", title: "Stored", answer };
  const kind = kindOf(answer.status);
  const detail = kind === "token" ? "" : "It did not say that it has stored the file.";
  return { kind, title: `The upload API answered ${answer.status}`, detail, answer };
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
export const BROKEN = {
  kind: "failed",
  title: "The connection broke",
  detail: "The relay cannot be reached, or it hung up. Whether the file was stored is not known.",
};
export const UNREADABLE = {
  kind: "failed",
  title: "The file cannot be read",
  detail: "It is a folder, or it has changed or gone since it was chosen.",
};
const LOST = {
  kind: "failed",
  title: "The relay was restarted",
  detail: "It does not know how far this had come. Whether the file was stored is not known.",
};

/** The body of an answer, as it is shown. */
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
