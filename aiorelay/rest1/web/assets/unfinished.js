// Remember unfinished uploads, so that the page continues them when their files are chosen again.
//
// localStorage   aiorelay-upload:KEY → {id, boundary, at}: the upload, the boundary of its form, when it was begun

const PREFIX = "aiorelay-upload:";
const KEPT = 30 * 86_400_000; // milliseconds; relays keep unfinished uploads for a shorter time

export function newBoundary() {
  return `aiorelay-${[...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/**
 * Call `use(record)` with the record of the file that has this `fingerprint`, and return its result. The record keeps
 * nothing if the same file is being sent already, here or in another tab, or if the browser has no locks.
 */
export function withRecord(fingerprint, use) {
  const key = PREFIX + JSON.stringify([location.pathname, ...fingerprint]);
  if (!navigator.locks) return use(new Record());
  return navigator.locks.request(key, { ifAvailable: true }, (lock) => use(new Record(lock ? key : "")));
}

class Record {
  #key;

  constructor(key = "") {
    this.#key = key;
    this.upload = key ? kept(key) : null;
  }

  save(upload) {
    this.upload = upload;
    store(() => localStorage.setItem(this.#key, JSON.stringify({ ...upload, at: Date.now() })), this.#key);
  }

  forget() {
    this.upload = null;
    store(() => localStorage.removeItem(this.#key), this.#key);
  }
}

function kept(key) {
  try {
    for (const each of Object.keys(localStorage).filter((name) => name.startsWith(PREFIX))) {
      if (!(JSON.parse(localStorage.getItem(each)).at > Date.now() - KEPT)) localStorage.removeItem(each);
    }
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null; // a browser may deny access to storage
  }
}

function store(change, key) {
  try {
    if (key) change();
  } catch {
    // the upload can be continued only while the page is open
  }
}
