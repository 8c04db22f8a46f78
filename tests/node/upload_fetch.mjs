// Upload a file with Node's own fetch: upload_fetch.mjs URL FILE FILENAME
import { readFile } from "node:fs/promises";

const [url, file, filename] = process.argv.slice(2);
const form = new FormData();
form.append("title", "Bericht für März");
form.append("somefile", new Blob([await readFile(file)], { type: "application/pdf" }), filename);
form.append("note", "two\nlines");

const answer = await fetch(url, { method: "POST", body: form });
console.log(await answer.text());
process.exitCode = answer.ok ? 0 : 1;
