// Stands between the page and its host. It says with each file what a browser wants to hear before it lets a page have
// threads (cross-origin isolation), which most hosts do not say; and it keeps the files, to play without a network.

const STORE = "rollplay";

addEventListener("install", () => skipWaiting());
addEventListener("activate", event => event.waitUntil(clients.claim()));
addEventListener("fetch", event => {
  if (event.request.url.startsWith(registration.scope)) event.respondWith(answer(event.request, event));
});

async function answer(request, event) {
  const store = await caches.open(STORE), hasVersion = new URL(request.url).search !== "";
  const response = (hasVersion && (await store.match(request))) || (await fresh(request, store, event));
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

/** From the host, and kept in place of what was there; what was there, where the host is out of reach. */
async function fresh(request, store, event) {
  const response = await fetch(request).catch(() => null);
  if (response === null) return (await store.match(request)) ?? Response.error();
  if (response.status === 200) {
    const copy = response.clone();
    event.waitUntil(store.delete(request, { ignoreSearch: true }).then(() => store.put(request, copy)));
  }
  return response;
}
