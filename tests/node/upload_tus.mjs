// Upload a file with tus-js-client: upload_tus.mjs ENDPOINT FILE FILENAME OPTIONS
// OPTIONS is JSON: those of tus-js-client, and `form`, which makes the file a multipart form before it is uploaded, and
// `stream`, which reads it as a stream. Prints how it ended, as JSON.
import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { PassThrough } from "node:stream";
import { Upload } from "tus-js-client";

const [endpoint, path, filename, json] = process.argv.slice(2);
const { form, stream, retries = 30, delay = 20, ...options } = JSON.parse(json);

async function content() {
  if (stream) return createReadStream(path).pipe(new PassThrough());
  const file = await readFile(path);
  if (!form) return file;
  const boundary = "----tus-js-client";
  options.headers = { ...options.headers, "Content-Type": `multipart/form-data; boundary=${boundary}` };
  const head = `--${boundary}\r\nContent-Disposition: form-data; name="somefile"; filename="${filename}"\r\n\r\n`;
  return Buffer.concat([Buffer.from(head), file, Buffer.from(`\r\n--${boundary}--\r\n`)]);
}

const asked = [];
const upload = new Upload(await content(), {
  endpoint,
  metadata: form ? {} : { filename, filetype: "application/pdf" },
  retryDelays: Array(retries).fill(delay),
  onBeforeRequest: (request) => {
    asked.push(request.getMethod());
  },
  onSuccess: ({ lastResponse }) => end({ done: true, status: lastResponse.getStatus(), body: lastResponse.getBody() }),
  onError: (error) =>
    end({ done: false, status: error.originalResponse?.getStatus() ?? 0, body: String(error.message) }),
  ...options,
});

function end(outcome) {
  process.removeAllListeners("beforeExit");
  console.log(JSON.stringify({ ...outcome, url: upload.url, asked }));
}

// It may wait for what never comes, for the first byte of an empty stream for example.
process.once("beforeExit", () => end({ done: false, status: 0, body: "neither success nor error" }));
upload.start();
