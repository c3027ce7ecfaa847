// Calls to the service. The token is kept for this tab only.

const KEY = "safemirage-token";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export async function get(path) {
  const held = token.get();
  const headers = held ? { Authorization: `Bearer ${held}` } : {};
  const response = await fetch(path, { headers, cache: "no-store" });
  const body = await response.json();
  if (!response.ok) throw new Refused(response.status, body.error ? body.error.message : response.statusText);
  return body;
}
