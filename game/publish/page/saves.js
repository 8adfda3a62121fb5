// Values by key in the browser's storage, which outlives the page.

const STORE = "saves";

export async function save(key, value) {
  const transaction = (await database()).transaction(STORE, "readwrite");
  transaction.objectStore(STORE).put(value, key);
  await new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(new Error(`this browser does not keep it (${transaction.error?.message})`));
  });
}

/** The value of a key; undefined where there is none. */
export async function load(key) {
  return done((await database()).transaction(STORE).objectStore(STORE).get(key));
}

function database() {
  const opening = indexedDB.open("rollplay", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
  return done(opening);
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(new Error(`this browser keeps nothing (${request.error.message})`));
  });
}
