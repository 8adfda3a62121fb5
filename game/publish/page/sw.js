// Stands between the page and its host. It says with each file what a browser wants to hear before it lets a page have
// threads (cross-origin isolation), which most hosts do not say; and it keeps the files, to play without a network.

const STORE = `rollplay ${registration.scope}`; // game.js knows it, too
const OWN = /^([\w.-]*|worlds\/.*)([?#].*)?$/; // the site's files below the scope: another site may lie there
const VERSIONED = /\.bin\?./; // never another content under the same address

addEventListener("install", () => skipWaiting());
addEventListener("activate", event => event.waitUntil(clients.claim()));
addEventListener("fetch", event => {
  const { method, url } = event.request, { scope } = registration;
  const isOwn = method === "GET" && url.startsWith(scope) && OWN.test(url.slice(scope.length));
  if (isOwn) event.respondWith(answer(event.request, event));
});

async function answer(request, event) {
  const store = await caches.open(STORE);
  const response = (VERSIONED.test(request.url) && (await store.match(request))) || (await fresh(request, store, event));
  if (response.status === 0) return response; // a redirect, which the browser follows, or no response at all
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

/** From the host, and kept; what is kept, where the host is out of reach. */
async function fresh(request, store, event) {
  const isVersioned = VERSIONED.test(request.url);
  const response = await fetch(request, isVersioned ? {} : { cache: "no-cache" }).catch(() => null);
  if (response === null) return (await store.match(request, { ignoreSearch: !isVersioned })) ?? Response.error();
  if (response.status === 200) event.waitUntil(keep(request, response.clone(), store));
  return response;
}

/** In place of other versions, once it is whole. */
async function keep(request, response, store) {
  await store.put(request, response);
  const all = await store.keys(request, { ignoreSearch: true });
  await Promise.all(all.filter(({ url }) => url !== request.url).map(old => store.delete(old)));
}
