// The application that embeds the page in a frame: it gives the page a token by postMessage.
//
// page → application    {aiorelay: "ready"}: the page is loaded, or needs another token
// application → page    {aiorelay: {token}}

const origins = document.body.dataset.embeddedBy.split(" ").filter(Boolean);
const isEmbedded = origins.length > 0 && parent !== window;

/** Call `use(token)` with each token that the application sends. */
export function onToken(use) {
  if (!isEmbedded) return;
  addEventListener("message", ({ source, origin, data }) => {
    if (source !== parent || !origins.includes(origin)) return;
    const token = data?.aiorelay?.token;
    if (typeof token === "string" && token) use(token);
  });
}

/** Tell the application that the page waits for a token. */
export function announce() {
  // To any origin: it is no secret, and the browser lets only the permitted origins embed the page (frame-ancestors).
  if (isEmbedded) parent.postMessage({ aiorelay: "ready" }, "*");
}
