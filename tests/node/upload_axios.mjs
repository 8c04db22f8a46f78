// Upload a file with axios and form-data: upload_axios.mjs URL FILE FILENAME stream|length|buffer
// With "stream" nobody tells how long the form is, and it goes out in chunks.
import { createReadStream, readFileSync, statSync } from "node:fs";
import { PassThrough } from "node:stream";
import axios from "axios";
import FormData from "form-data";

const [url, file, filename, mode] = process.argv.slice(2);
const form = new FormData();
form.append("title", "Bericht für März");
if (mode === "buffer") {
  form.append("somefile", readFileSync(file), { filename });
} else {
  const knownLength = mode === "length" ? statSync(file).size : undefined;
  form.append("somefile", createReadStream(file), { filename, contentType: "application/pdf", knownLength });
}
form.append("note", "two\nlines");

const headers = form.getHeaders();
if (mode !== "stream") headers["Content-Length"] = form.getLengthSync();
const body = mode === "stream" ? form.pipe(new PassThrough()) : form;
const answer = await axios.post(url, body, { headers, maxBodyLength: Infinity, maxRedirects: 0 });
console.log(JSON.stringify(answer.data));
