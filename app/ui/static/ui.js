// The pages read without this. It keeps them up to date, draws the charts from their tables, writes
// times by the clock of who looks, and listens to keys.
"use strict";

const EVERY = 4000; // milliseconds from one look to the next, give or take a fifth
const LONGEST = 60000;

let etag = null;
let pause = EVERY;

const state = document.querySelector("[data-live-state]");
const isLive = document.querySelector("main [data-live]") !== null;

function tell(words) {
    if (state && state.textContent !== words) {
        state.hidden = !words;
        state.textContent = words;
    }
}

// Nobody has what he reads, marks or fills in taken away.
function isHeld() {
    const inLive = (node) => node && node.nodeType && (node.closest ? node : node.parentElement)?.closest("[data-live]");
    const focused = document.activeElement;
    const isTyping = focused && focused.matches("input, select, textarea") && inLive(focused);
    const isFilled = [...document.querySelectorAll("[data-live] :is(input:not([type=hidden]), textarea)")]
        .some((field) => field.value !== field.defaultValue);
    const selection = window.getSelection();
    return isTyping || isFilled || document.querySelector("[data-live] input[type=checkbox]:checked")
        || (selection && !selection.isCollapsed && inLive(selection.anchorNode))
        || document.querySelector("dialog[open]");
}

function focusable(root) {
    return [...root.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")];
}

function replace(old, made) {
    const place = focusable(old).indexOf(document.activeElement);
    for (const details of old.querySelectorAll("details[id][open]")) {
        const same = made.querySelector(`#${CSS.escape(details.id)}`);
        if (same) same.open = true;
    }
    old.replaceWith(made);
    if (place >= 0) (focusable(made)[place] || made).focus({ preventScroll: true });
}

async function look() {
    if (document.hidden) return again();
    if (isHeld()) {
        tell("paused");
        return again();
    }
    try {
        const answer = await fetch(location.href, { headers: etag ? { "If-None-Match": etag } : {} });
        if (answer.status === 200 && !answer.redirected) {
            const made = new DOMParser().parseFromString(await answer.text(), "text/html");
            if (!isHeld()) {
                etag = answer.headers.get("ETag");
                for (const old of document.querySelectorAll("[data-live]")) {
                    const same = made.getElementById(old.id);
                    if (same && same.outerHTML !== sources.get(old.id)) {
                        sources.set(old.id, same.outerHTML);
                        replace(old, document.adoptNode(same));
                        dress(document.getElementById(old.id));
                    }
                }
            }
        } else if (answer.status !== 304) {
            throw new Error(String(answer.status));
        }
        pause = EVERY;
        tell("live");
    } catch {
        pause = Math.min(2 * pause, LONGEST);
        tell("no answer, trying again");
    }
    return again();
}

function again() {
    setTimeout(look, pause * (0.8 + 0.4 * Math.random()));
}

// Times
function ago(seconds) {
    const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
    const ahead = seconds < 0;
    const whole = Math.abs(Math.round(seconds));
    const [size, unit] = units.find(([size]) => whole >= size) || [1, "s"];
    const words = `${Math.floor(whole / size)} ${unit}`;
    return ahead ? `in ${words}` : `${words} ago`;
}

function clocks(root) {
    for (const time of root.querySelectorAll("time[datetime]")) {
        const at = new Date(time.dateTime);
        if (isNaN(at)) continue;
        if (!time.dataset.utc) time.dataset.utc = time.title;
        time.title = `${time.dataset.utc} · here ${at.toLocaleString()}`;
        if ("ago" in time.dataset) time.textContent = ago((Date.now() - at) / 1000);
    }
}

// Charts
const charts = new Map();

function colour(kind) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${kind}`).trim();
}

function seconds(value) {
    if (value == null) return "–";
    if (value < 1) return `${Math.round(value * 1000)} ms`;
    if (value < 120) return `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
    if (value < 7200) return `${Math.round(value / 60)} min`;
    return value < 172800 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86400)} d`;
}

function count(value) {
    if (value == null) return "–";
    if (Math.abs(value) >= 1e6) return `${+(value / 1e6).toFixed(1)} M`;
    if (Math.abs(value) >= 1e4) return `${+(value / 1e3).toFixed(1)} k`;
    return value.toLocaleString("en-US", { maximumFractionDigits: 1 });
}

function draw(figure) {
    const plot = figure.querySelector(".plot");
    const heads = [...figure.querySelectorAll("details thead th")].slice(1);
    const rows = [...figure.querySelectorAll("details tbody tr")];
    charts.get(figure.id)?.destroy();
    charts.delete(figure.id);
    if (typeof uPlot === "undefined" || rows.length < 2) return;
    const data = [rows.map((row) => Date.parse(row.querySelector("time").dateTime) / 1000)];
    heads.forEach((_, place) => data.push(rows.map((row) => {
        const value = row.cells[place + 1].dataset.value;
        return value === "" ? null : Number(value);
    })));
    const words = figure.dataset.chart === "s" ? seconds : count;
    const axis = { stroke: colour("quiet"), grid: { stroke: colour("edge"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const isLong = data[0].at(-1) - data[0][0] > 86400;
    const clock = (at) => {
        const text = new Date(at * 1000).toISOString();
        return isLong ? `${text.slice(8, 10)}.${text.slice(5, 7)}.` : text.slice(11, 16);
    };
    const said = [...figure.querySelectorAll(".legend b")];
    const when = figure.querySelector(".legend time");
    charts.set(figure.id, new uPlot({
        width: plot.clientWidth || figure.clientWidth - 26,
        height: 132,
        padding: [8, 8, 0, 0],
        tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
        cursor: { points: { size: 6 }, y: false },
        legend: { show: false },
        scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] } },
        axes: [
            { ...axis, space: 60, size: 26, values: (_, ticks) => ticks.map(clock) },
            { ...axis, size: 48, space: 28, values: (_, ticks) => ticks.map(words) },
        ],
        series: [
            {},
            ...heads.map((head, place) => ({
                stroke: colour(head.dataset.kind),
                fill: place ? undefined : colour(`${head.dataset.kind}-wash`), // the largest
                width: 1.5,
                points: { show: false },
            })),
        ],
        hooks: {
            setCursor: [(chart) => {
                const place = chart.cursor.idx;
                said.forEach((word, number) => { word.textContent = place == null ? "" : words(data[number + 1][place]); });
                when.textContent = place == null ? "" : `${isLong ? clock(data[0][place]) + " " : ""}${new Date(data[0][place] * 1000).toISOString().slice(11, 16)}`;
            }],
        },
    }, data, plot));
}

function dress(root) {
    clocks(root);
    for (const figure of root.querySelectorAll("figure[data-chart]")) draw(figure);
    for (const button of root.querySelectorAll("button[data-copy]")) button.hidden = !navigator.clipboard;
}

// What is copied is the text of the element that the button names; where that is not allowed, it is
// marked at least.
async function copy(button) {
    const source = document.getElementById(button.dataset.copy);
    try {
        await navigator.clipboard.writeText(source.textContent);
        const words = button.textContent;
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = words; }, 1500);
    } catch {
        window.getSelection().selectAllChildren(source);
    }
}

// Keys
let isAfterG = false;

function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, select, textarea")) return;
    const page = isAfterG && document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
    isAfterG = event.key === "g";
    if (page) {
        page.click();
    } else if (event.key === "?") {
        document.getElementById("keys").showModal();
    } else if (event.key === "/") {
        const search = document.querySelector("input[type=search]");
        if (!search) return;
        event.preventDefault();
        search.focus();
    } else if (event.key === "j" || event.key === "k") {
        const links = [...document.querySelectorAll(".rows tbody tr")].map((row) => row.querySelector("a, button, input")).filter(Boolean);
        const here = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
        links[Math.min(Math.max(here + (event.key === "j" ? 1 : -1), 0), links.length - 1)]?.focus();
    }
}

const sources = new Map([...document.querySelectorAll("[data-live]")].map((node) => [node.id, node.outerHTML]));
dress(document);
document.addEventListener("keydown", onKey);
document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-copy]");
    if (button) copy(button);
});
document.querySelector("[data-keys]")?.addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("keys").showModal();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dress(document));
let resizing = 0;
addEventListener("resize", () => {
    clearTimeout(resizing);
    resizing = setTimeout(() => dress(document), 150);
});
if (isLive) {
    tell("live");
    again();
}

// Jobs: what was confirmed goes on by itself, from a page that only an answer to a form is.
document.querySelector("form[data-go-on]")?.requestSubmit();
