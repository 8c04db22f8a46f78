// The upload page: each file that is chosen, dropped or pasted, and each URL, becomes an upload in the list.

import { announce, onToken } from "./embedding.js";
import { Entry } from "./entry.js";
import { ingest } from "./ingesting.js";
import { send } from "./sending.js";
import { UNREADABLE } from "./verdict.js";

const AT_ONCE = 3; // browsers open at most six HTTP/1.1 connections to a server; a fetched URL uses one for its events
const KEPT = "aiorelay-token";

const $ = (selector) => document.querySelector(selector);
const input = $("#file");
const field = input.name;
const resumable = Boolean(document.body.dataset.resumable);
const list = $("#uploads ol");

// -- the queue

const entries = new Set();
const waiting = [];
let running = 0;

function queue(entry) {
  waiting.push(entry);
  next();
}

async function next() {
  if (running >= AT_ONCE || !waiting.length) return;
  const entry = waiting.shift();
  if (entry.ended) return next();
  if (isTokenMissing()) return hold(entry);
  running += 1;
  const used = token;
  const verdict = await entry.start();
  running -= 1;
  if (verdict.kind === "token") used === token ? hold(entry, verdict) : queue(entry);
  tidy();
  next();
}

function add(name, run) {
  const start = ({ signal, on }) => run({ field, headers: authorization(), resumable, signal, on });
  const entry = new Entry(name, start, queue);
  entries.add(entry);
  list.append(entry.element);
  $("#uploads").hidden = false;
  queue(entry);
}

function tidy() {
  $("#clear").hidden = ![...entries].some((entry) => entry.ended);
  $("#uploads").hidden = !entries.size;
}

function addFiles(files) {
  for (const file of files) add(file.name, (options) => send(file, options));
}

function addAddress(url) {
  add(url, (options) => ingest(url, options));
}

// -- the token

const held = [];
let token = remembered();
let isGiven = false; // whether the application that embeds the page gives tokens
let refused = null; // the last token that was not valid
let isTokenWanted = Boolean(document.body.dataset.token);

const isTokenMissing = () => isTokenWanted && !token;

/** The header fields that carry the token, if there is one. */
const authorization = () => (token ? { [document.body.dataset.tokenHeader]: `Bearer ${token}` } : {});

/** Hold an upload until there is a token. `verdict` is the refusal of the previous token. */
function hold(entry, verdict) {
  entry.wait("Waiting for a token");
  held.push(entry);
  askForToken(verdict);
  next();
}

function askForToken(verdict) {
  const hadToken = Boolean(token);
  if (verdict) {
    isTokenWanted = true;
    refused = token;
    remember("");
  }
  if (isGiven) {
    if (verdict) announce();
    return;
  }
  const isNews = $("#token").hidden || verdict;
  $("#token").hidden = false;
  if (verdict?.detail) $("#token-hint").textContent = verdict.detail;
  if (hadToken) $("#token-value").setAttribute("aria-invalid", "true");
  if (isNews) $("#status").textContent = "A token is needed.";
  if (document.activeElement !== $("#url") || !$("#url").value) $("#token-value").focus();
}

function remembered() {
  try {
    return sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return ""; // a browser may deny access to storage
  }
}

function remember(value) {
  token = value;
  try {
    sessionStorage.setItem(KEPT, value);
  } catch {
    // kept only while the page is open
  }
}

$("#token").addEventListener("submit", (event) => {
  event.preventDefault();
  remember($("#token-value").value.trim());
  event.target.reset();
  $("#token-value").removeAttribute("aria-invalid");
  $("#token").hidden = true;
  focusOnUploads();
  release();
});

function focusOnUploads() {
  (entries.size ? $("#uploads-title") : input).focus();
}

/** Send what was held for a token. */
function release() {
  for (const entry of held.splice(0)) {
    if (!entry.ended) entry.wait();
    queue(entry);
  }
}

onToken((value) => {
  if (value === refused) return; // the application may answer with the same one for ever
  isGiven = true;
  token = value; // in memory only
  const hadFocus = $("#token").contains(document.activeElement);
  $("#token").hidden = true;
  if (hadFocus) focusOnUploads();
  release();
});

// -- input

input.addEventListener("change", () => {
  addFiles(input.files);
  input.value = ""; // so that the same file can be chosen again
});

$("#link").addEventListener("submit", (event) => {
  event.preventDefault();
  addAddress($("#url").value);
  event.target.reset();
});

$("#clear").addEventListener("click", () => {
  for (const entry of entries) {
    if (!entry.ended) continue;
    entries.delete(entry);
    entry.element.remove();
  }
  tidy();
  focusOnUploads();
});

addEventListener("paste", ({ clipboardData }) => addFiles(clipboardData?.files ?? []));

// The whole page accepts drops. Otherwise the browser would open a file that is dropped beside the target.
let depth = 0; // how many nested elements the drag is over: each fires its own dragenter and dragleave
function dragged(change) {
  depth = change === 0 ? 0 : depth + change;
  document.body.classList.toggle("dragging", depth > 0);
}
addEventListener("dragenter", () => dragged(1));
addEventListener("dragleave", () => dragged(-1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  dragged(0);
  for (const item of event.dataTransfer.items) {
    if (item.kind !== "file") continue;
    const file = item.getAsFile();
    if (item.webkitGetAsEntry?.()?.isDirectory) add(file.name, async () => UNREADABLE);
    else addFiles([file]);
  }
  if (!event.dataTransfer.files.length) {
    const links = event.dataTransfer.getData("text/uri-list").split(/\r?\n/);
    links.filter((link) => /^https?:/i.test(link)).forEach(addAddress);
  }
});

addEventListener("beforeunload", (event) => {
  if (running) event.preventDefault();
});

$("#link").hidden = false;
$("#token").hidden = !isTokenMissing();
announce();
