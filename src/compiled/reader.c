/* The way of an image from the socket to its `bytes`, and the header of a JPEG, at the speed of C.

   `Reader` does what `engine.reader.MessageReader` does, where the protocol and the short way of images are described.
   It reads what nearly all of the traffic is, and leaves everything else to a `MessageReader`, its fallback:

       the text that announces an image, whole, and the binary message behind it, each in one frame
       ping and pong

   Rule 1. The behaviour is the fallback's. At the first byte of a frame that is anything else, faults included, the
           fallback gets it and all that follows, the pending announcement before it, until it stands between messages
           again and its images take the short way. So no error of the protocol is worded here.
   Rule 2. A length from the wire is a uint64_t, and is compared with the limit before it is used for anything. From
           there on a size is a size_t: none is larger than the limit, which is a Py_ssize_t.
   Rule 3. Whoever is called (`hold`, `admit`, the transport, a handler of signals) may call `forget`. So no pointer
           into the image is kept over a call; those into the scratch are good as long as the reader lives.
   Rule 4. Reading ends with nothing left in the scratch, which other connections share. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* As in engine/reader.py, with the reasons; tests compare them. */
#define FIRST_BUFFER_BYTES ((size_t)64 * 1024)
#define FIRST_IMAGE_BYTES ((size_t)4 * 1024)
#define FRAMES_PER_TURN 64
#define MAX_ANNOUNCEMENT_BYTES 125
#define LARGE_IMAGE_BYTES ((size_t)128 * 1024)
#define FEW_BYTES ((size_t)512)
#define IMAGE 0x10
#define REFUSED 0x11

/* The first two bytes of a frame, RFC 6455 section 5.2. */
#define FINAL 0x80
#define TEXT 0x1
#define BINARY 0x2
#define PING 0x9
#define PONG 0xA
#define MASKED 0x80
#define LENGTH 0x7F

#define MASK_BYTES 4
#define BEFORE "451-"
#define BEFORE_BYTES (sizeof BEFORE - 1)
#define MAX_NUMBER_BYTES 15
#define MAX_EVENT_BYTES 64
/* The header of a frame that has at most 125 bytes. */
#define SMALL_HEADER_BYTES ((size_t)2 + MASK_BYTES)
/* Of a frame of at most 125 bytes, and of a longer one's header, less than this is kept when it is not all there. A
   scratch that has no room for that, and for one byte more, leaves everything to the fallback. */
#define MIN_SCRATCH_BYTES (SMALL_HEADER_BYTES + 125)
/* More is never waiting in a socket. */
#define MAX_SKIP_BYTES ((size_t)INT_MAX)

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* -- unmasking, section 5.3: byte i of a payload has been combined with byte i % 4 of the mask */

static uint64_t
key_from(const uint8_t mask[MASK_BYTES], size_t offset)
{
    uint8_t turned[8];
    for (size_t i = 0; i < sizeof turned; i++)
        turned[i] = mask[(offset + i) % MASK_BYTES];
    uint64_t key;
    memcpy(&key, turned, sizeof key);
    return key;
}

/* Unmask in place what lies at this offset of its payload. The first loop becomes SIMD instructions: its step is 8
   bytes, which need not be aligned. */
static void
unmask(uint8_t *bytes, size_t size, const uint8_t mask[MASK_BYTES], size_t offset)
{
    const uint64_t key = key_from(mask, offset);
    const size_t steps = size / sizeof key;
    for (size_t i = 0; i < steps; i++) {
        uint64_t step;
        memcpy(&step, bytes + i * sizeof step, sizeof step);
        step ^= key;
        memcpy(bytes + i * sizeof step, &step, sizeof step);
    }
    for (size_t i = steps * sizeof key; i < size; i++)
        bytes[i] ^= mask[(offset + i) % MASK_BYTES];
}

/* The same into another place: that costs no more than a copy. */
static void
unmask_to(uint8_t *restrict to, const uint8_t *restrict from, size_t size, const uint8_t mask[MASK_BYTES],
          size_t offset)
{
    const uint64_t key = key_from(mask, offset);
    const size_t steps = size / sizeof key;
    for (size_t i = 0; i < steps; i++) {
        uint64_t step;
        memcpy(&step, from + i * sizeof step, sizeof step);
        step ^= key;
        memcpy(to + i * sizeof step, &step, sizeof step);
    }
    for (size_t i = steps * sizeof key; i < size; i++)
        to[i] = from[i] ^ mask[(offset + i) % MASK_BYTES];
}

/* -- the reader */

/* What is looked up or called by name. */
#define NAMES(X)                                                                                                       \
    X(admit) X(fileno) X(forget) X(hand_back) X(missing) X(more) X(plain) X(receive) X(receive_into) X(received)       \
    X(resume) X(skip) X(skipping)

typedef struct {
#define DECLARE(name) PyObject *name;
    NAMES(DECLARE)
#undef DECLARE
} Names;

typedef struct {
    PyObject_HEAD
    const Names *names; /* the module's, which lives as long as this object's type */
    PyObject *fallback;
    Py_buffer scratch;  /* held as long as the reader lives: a bytearray does not move while somebody has its buffer */
    PyObject *hold;     /* NULL where nobody wants to know */
    PyObject *sink;     /* NULL where there is none */
    PyObject *heads;    /* tuple of bytes: of announcements, what follows the number; NULL where there are none */
    size_t shortest_bytes;   /* of an announcement */
    size_t max_bytes;        /* of a message */
    size_t last_image_bytes; /* 0 before the first */
    size_t held;             /* what `hold` was told last */
    bool busy;          /* a method is running, and may be calling somebody */
    bool ours;          /* what comes is read here, and not by the fallback */
    bool short_way;     /* there is a sink, and announcements */
    bool wary;          /* the last image was refused */
    bool more;          /* what is kept is more than the beginning of a frame */
    uint8_t prefix_bytes;    /* 0 or 1 */
    uint8_t prefix;
    PyObject *kept;     /* bytes that came and are not read yet; NULL when there are none, or an image is under way */

    /* The announcement whose image is due or under way; of 0 bytes when none is. */
    uint8_t announcement[MAX_ANNOUNCEMENT_BYTES];
    uint8_t announcement_bytes;
    uint8_t number_at, number_bytes;
    uint8_t event_at, event_bytes;

    /* The image under way; NULL when none is. Nobody else has seen this object, so it may be written to and resized. It
       has capacity - prefix_bytes bytes, of which filled - prefix_bytes are there and unmasked; the sizes count the
       prefix, which is looked at in the scratch and never stored: prefix_bytes <= filled < length <= max_bytes, and
       filled < capacity <= length. */
    PyObject *image;
    size_t length;
    size_t filled;
    size_t capacity;
    uint8_t mask[MASK_BYTES];

    PyObject *refusal;  /* of the image that is skipped; NULL when none is */
    size_t to_skip;     /* so many of its bytes are still to come, not 0 */
} Reader;

static uint8_t *
scratch_of(const Reader *self)
{
    return self->scratch.buf;
}

static size_t
scratch_bytes(const Reader *self)
{
    return (size_t)self->scratch.len;
}

static size_t
kept_bytes(const Reader *self)
{
    return self->kept == NULL ? 0 : (size_t)PyBytes_GET_SIZE(self->kept);
}

/* Keep so many bytes of the scratch for the next call. */
static int
keep(Reader *self, size_t position, size_t end)
{
    PyObject *kept = PyBytes_FromStringAndSize((char *)scratch_of(self) + position, (Py_ssize_t)(end - position));
    if (kept == NULL)
        return -1;
    Py_XSETREF(self->kept, kept);
    return 0;
}

/* Say how much memory is held, when that has changed. May end with all of it forgotten. */
static int
tell_held(Reader *self)
{
    size_t size = kept_bytes(self) + (self->image == NULL ? 0 : self->capacity);
    if (size <= FIRST_BUFFER_BYTES)
        size = 0;
    if (size == self->held)
        return 0;
    self->held = size;
    if (self->hold == NULL)
        return 0;
    PyObject *number = PyLong_FromSize_t(size);
    if (number == NULL)
        return -1;
    PyObject *hold = Py_NewRef(self->hold);
    PyObject *nothing = PyObject_CallOneArg(hold, number);
    Py_DECREF(hold);
    Py_DECREF(number);
    if (nothing == NULL)
        return -1;
    Py_DECREF(nothing);
    return 0;
}

/* A part of the announcement as str, or None: it is printable ASCII. */
static PyObject *
announced_text(const Reader *self, size_t at, size_t size)
{
    if (size == 0)
        return Py_NewRef(Py_None);
    return PyUnicode_DecodeASCII((const char *)self->announcement + at, (Py_ssize_t)size, NULL);
}

/* Give out (kind, what, number, event), and be done with the announcement. Takes the reference `what`. */
static int
add_message(Reader *self, PyObject *messages, long kind, PyObject *what)
{
    PyObject *number = announced_text(self, self->number_at, self->number_bytes);
    PyObject *event = announced_text(self, self->event_at, self->event_bytes);
    self->announcement_bytes = 0;
    if (number == NULL || event == NULL) {
        Py_XDECREF(number);
        Py_XDECREF(event);
        Py_DECREF(what);
        return -1;
    }
    PyObject *message = Py_BuildValue("(lNNN)", kind, what, number, event);
    if (message == NULL)
        return -1;
    const int failed = PyList_Append(messages, message);
    Py_DECREF(message);
    return failed;
}

/* The image under way is whole. */
static int
end_image(Reader *self, PyObject *messages)
{
    PyObject *image = self->image;
    self->image = NULL;
    self->wary = false;
    self->last_image_bytes = (size_t)PyBytes_GET_SIZE(image);
    return add_message(self, messages, IMAGE, image);
}

/* Where the next byte of the image under way belongs. */
static uint8_t *
image_end(const Reader *self)
{
    return (uint8_t *)PyBytes_AS_STRING(self->image) + (self->filled - self->prefix_bytes);
}

/* So many bytes have come for the image under way, at most those that it lacks: from `masked`, or, where that is NULL,
   into it already, and then at most those that it has room for. */
static int
add_to_image(Reader *self, PyObject *messages, const uint8_t *masked, size_t size)
{
    while (self->image != NULL && size > 0) {
        const size_t fits = MIN(size, self->capacity - self->filled);
        if (masked == NULL) {
            unmask(image_end(self), fits, self->mask, self->filled);
        } else {
            unmask_to(image_end(self), masked, fits, self->mask, self->filled);
            masked += fits;
        }
        size -= fits;
        self->filled += fits;
        if (self->filled == self->length)
            return end_image(self, messages);
        if (self->filled == self->capacity) {
            /* Both are at most max_bytes, so that twice as much is still a size_t. */
            const size_t grown = MIN(self->length, 2 * self->filled);
            if (_PyBytes_Resize(&self->image, (Py_ssize_t)(grown - self->prefix_bytes)) < 0)
                return -1;  /* and the image is NULL */
            self->capacity = grown;
            if (tell_held(self) < 0)
                return -1;
        }
    }
    return 0;
}

/* Begin an image whose payload is `length` bytes long; `there` of them, at most all and at least the prefix, are at
   `payload`.

   There is memory for what has come; for more when that is there (see make_room). */
static int
begin_image(Reader *self, PyObject *messages, const uint8_t mask[MASK_BYTES], const uint8_t *payload, size_t there,
            size_t length)
{
    const size_t capacity = MIN(length, there + 1);
    const size_t prefix_bytes = self->prefix_bytes;
    PyObject *image = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(capacity - prefix_bytes));
    if (image == NULL)
        return -1;
    /* An empty image is everybody's b"", and nothing is written. */
    unmask_to((uint8_t *)PyBytes_AS_STRING(image), payload + prefix_bytes, there - prefix_bytes, mask, prefix_bytes);
    Py_XSETREF(self->image, image);
    memcpy(self->mask, mask, MASK_BYTES);
    self->length = length;
    self->filled = there;
    self->capacity = capacity;
    return there == length ? end_image(self, messages) : tell_held(self);
}

/* Before more of the image under way is received: an announced length alone gets next to no memory, what has begun to
   come four times as much as is there, and a camera whose last image was as large will send all of this one too. Not
   sooner, as it is waited for until it is there: memory that the heap has used before is the process's from the moment
   that it is asked for, and a crowd of cameras would have it twice. Nor in small steps, which leave holes in the heap.
   May end with all of it forgotten. */
static int
make_room(Reader *self)
{
    if (self->image == NULL)
        return 0;
    size_t wanted = self->length;
    if (self->filled < self->length / 4) {  /* so that four times as much is a size_t */
        const size_t likely = self->last_image_bytes + self->last_image_bytes / 2;
        wanted = MIN(wanted, MAX(FIRST_IMAGE_BYTES, MAX(likely, 4 * self->filled)));
    }
    if (self->capacity >= wanted)
        return 0;
    if (_PyBytes_Resize(&self->image, (Py_ssize_t)(wanted - self->prefix_bytes)) < 0)
        return -1;  /* and the image is NULL */
    self->capacity = wanted;
    return tell_held(self);
}

static int
end_skipping(Reader *self, PyObject *messages)
{
    PyObject *refusal = self->refusal;
    self->refusal = NULL;
    self->wary = true;
    return add_message(self, messages, REFUSED, refusal);
}

/* What came of a frame. */
typedef enum {
    FAILED,  /* with a Python exception */
    TAKEN,
    PARTIAL, /* it may be ours, but so little of it is there that it has to be kept */
    NOT_OURS,
} Outcome;

static Outcome
read_control(const Reader *self, PyObject *messages, const uint8_t *frame, size_t there, size_t *taken)
{
    const size_t size = frame[1] & LENGTH;
    if (size > 125 || size > self->max_bytes)
        return NOT_OURS;
    *taken = SMALL_HEADER_BYTES + size;
    if (there < *taken)
        return PARTIAL;
    PyObject *payload = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (payload == NULL)
        return FAILED;
    unmask_to((uint8_t *)PyBytes_AS_STRING(payload), frame + SMALL_HEADER_BYTES, size, frame + 2, 0);
    PyObject *message = Py_BuildValue("(iN)", frame[0] & 0x0F, payload);
    if (message == NULL)
        return FAILED;
    const int failed = PyList_Append(messages, message);
    Py_DECREF(message);
    return failed ? FAILED : TAKEN;
}

static bool
is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

/* Of an event's name that JSON writes as it is: no control, quotation mark, backslash; nothing beyond ASCII. */
static bool
is_plain(uint8_t byte)
{
    return byte >= ' ' && byte <= '~' && byte != '"' && byte != '\\';
}

/* Whether a text is what `Announcements.read` takes; then it is the announcement. At most MAX_ANNOUNCEMENT_BYTES. */
static bool
take_announcement(Reader *self, const uint8_t *text, size_t size)
{
    if (size < BEFORE_BYTES || memcmp(text, BEFORE, BEFORE_BYTES) != 0)
        return false;
    size_t at = BEFORE_BYTES;
    while (at < size && is_digit(text[at]))
        at++;
    const size_t number_bytes = at - BEFORE_BYTES;
    if (number_bytes > MAX_NUMBER_BYTES || (number_bytes > 1 && text[BEFORE_BYTES] == '0'))
        return false;
    size_t head_bytes = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(self->heads) && head_bytes == 0; i++) {
        PyObject *head = PyTuple_GET_ITEM(self->heads, i);
        const size_t wanted = (size_t)PyBytes_GET_SIZE(head);
        if (wanted < size - at && memcmp(text + at, PyBytes_AS_STRING(head), wanted) == 0)
            head_bytes = wanted;
    }
    at += head_bytes;  /* still less than the size */
    size_t event_at = 0, event_bytes = 0;
    if (head_bytes > 0 && size - at > 2 && text[at] == ',' && text[at + 1] == '"') {
        event_at = at += 2;
        while (at < size && is_plain(text[at]))
            at++;
        event_bytes = at - event_at;
        if (event_bytes == 0 || event_bytes > MAX_EVENT_BYTES || at == size || text[at] != '"')
            return false;
        at++;
    }
    if (head_bytes == 0 || size - at != 1 || text[at] != ']')
        return false;
    memcpy(self->announcement, text, size);
    self->announcement_bytes = (uint8_t)size;
    self->number_at = BEFORE_BYTES;
    self->number_bytes = (uint8_t)number_bytes;
    self->event_at = (uint8_t)event_at;
    self->event_bytes = (uint8_t)event_bytes;
    return true;
}

static Outcome
read_announcement(Reader *self, const uint8_t *frame, size_t there, size_t *taken)
{
    const size_t size = frame[1] & LENGTH;
    if (size < self->shortest_bytes || size > MAX_ANNOUNCEMENT_BYTES)
        return NOT_OURS;
    if (there < SMALL_HEADER_BYTES)
        return PARTIAL;
    *taken = SMALL_HEADER_BYTES + size;
    uint8_t text[MAX_ANNOUNCEMENT_BYTES];
    const size_t text_there = MIN(size, there - SMALL_HEADER_BYTES);
    unmask_to(text, frame + SMALL_HEADER_BYTES, text_there, frame + 2, 0);
    if (there >= *taken)
        return take_announcement(self, text, size) ? TAKEN : NOT_OURS;
    /* What is not announcing anything is the fallback's at once: it looks for wrong bytes as they come. */
    if (memcmp(text, BEFORE, MIN(text_there, BEFORE_BYTES)) != 0)
        return NOT_OURS;
    for (size_t i = 0; i < text_there; i++)
        if (text[i] >= 0x80)
            return NOT_OURS;
    return PARTIAL;
}

/* Ask the sink; returns None or the refusal. */
static PyObject *
admit(const Reader *self, size_t size)
{
    PyObject *refusal = NULL;
    PyObject *sink = Py_NewRef(self->sink);
    PyObject *number = PyLong_FromSize_t(size);
    PyObject *event = announced_text(self, self->event_at, self->event_bytes);
    if (number != NULL && event != NULL) {
        PyObject *arguments[] = {sink, number, event};
        refusal = PyObject_VectorcallMethod(self->names->admit, arguments, 3, NULL);
    }
    Py_XDECREF(event);
    Py_XDECREF(number);
    Py_DECREF(sink);
    return refusal;
}

/* The binary frame behind an announcement; takes all of it that is there. */
static Outcome
read_image(Reader *self, PyObject *messages, const uint8_t *frame, size_t there, size_t *taken)
{
    const size_t prefix_bytes = self->prefix_bytes;
    size_t header_bytes = 2;
    uint64_t sent_length = frame[1] & LENGTH;
    if (sent_length >= 126) {
        header_bytes += sent_length == 126 ? 2 : 8;
        if (there < header_bytes)
            return PARTIAL;
        sent_length = 0;
        for (size_t i = 2; i < header_bytes; i++)
            sent_length = sent_length << 8 | frame[i];
    }
    if (sent_length < prefix_bytes || sent_length > self->max_bytes)
        return NOT_OURS;
    header_bytes += MASK_BYTES;
    if (there < header_bytes + prefix_bytes)
        return PARTIAL;
    const size_t length = (size_t)sent_length;
    uint8_t mask[MASK_BYTES];
    memcpy(mask, frame + header_bytes - MASK_BYTES, MASK_BYTES);
    if (prefix_bytes && (frame[header_bytes] ^ mask[0]) != self->prefix)
        return NOT_OURS;
    const size_t payload_there = MIN(there - header_bytes, length);
    *taken = header_bytes + payload_there;
    PyObject *refusal = admit(self, length - prefix_bytes);
    if (refusal == NULL)
        return FAILED;
    if (!self->ours || refusal == Py_None) {
        Py_DECREF(refusal);
        if (self->ours && begin_image(self, messages, mask, frame + header_bytes, payload_there, length) < 0)
            return FAILED;
        return TAKEN;
    }
    Py_XSETREF(self->refusal, refusal);
    self->to_skip = length - payload_there;
    if (self->to_skip == 0 && end_skipping(self, messages) < 0)
        return FAILED;
    return TAKEN;
}

static Outcome
read_frame(Reader *self, PyObject *messages, const uint8_t *frame, size_t there, size_t *taken)
{
    if (there < 2)
        return PARTIAL;
    if (!self->short_way || !(frame[1] & MASKED))
        return NOT_OURS;
    switch (frame[0]) {
    case FINAL | TEXT:
        return self->announcement_bytes ? NOT_OURS : read_announcement(self, frame, there, taken);
    case FINAL | BINARY:
        return self->announcement_bytes ? read_image(self, messages, frame, there, taken) : NOT_OURS;
    case FINAL | PING:
    case FINAL | PONG:
        return read_control(self, messages, frame, there, taken);
    default:
        return NOT_OURS;
    }
}

/* Take over from the fallback, if it lets go. */
static int
take_back(Reader *self)
{
    if (!self->short_way)
        return 0;
    PyObject *more = PyObject_GetAttr(self->fallback, self->names->more);
    if (more == NULL)
        return -1;
    const int is_more = PyObject_IsTrue(more);
    Py_DECREF(more);
    if (is_more < 0)
        return -1;
    PyObject *kept = PyObject_CallMethodNoArgs(self->fallback, self->names->hand_back);
    if (kept == NULL)
        return -1;
    if (kept == Py_None) {
        Py_DECREF(kept);
        return 0;
    }
    if (!PyBytes_CheckExact(kept) || PyBytes_GET_SIZE(kept) > self->scratch.len) {
        PyErr_SetString(PyExc_TypeError, "the fallback handed back what are no bytes that fit into the scratch");
        Py_DECREF(kept);
        return -1;
    }
    if (!self->short_way) {  /* its `hold` was told, and forgot everything */
        Py_DECREF(kept);
        return 0;
    }
    if (PyBytes_GET_SIZE(kept) == 0)
        Py_CLEAR(kept);
    Py_XSETREF(self->kept, kept);
    self->more = is_more;
    self->ours = true;
    return tell_held(self);
}

/* Have the fallback do something that gives out messages. */
static PyObject *
ask_fallback(Reader *self, PyObject *name, PyObject *argument)
{
    PyObject *messages = PyObject_CallMethodOneArg(self->fallback, name, argument);
    if (messages != NULL && take_back(self) < 0)
        Py_CLEAR(messages);
    return messages;
}

static PyObject *
fallback_received(Reader *self, size_t size)
{
    PyObject *count = PyLong_FromSize_t(size);
    if (count == NULL)
        return NULL;
    PyObject *messages = ask_fallback(self, self->names->received, count);
    Py_DECREF(count);
    return messages;
}

/* Let the fallback read the pending announcement, as if it had read it when it came. */
static int
hand_over_announcement(Reader *self)
{
    uint8_t *frame = scratch_of(self);
    const size_t size = self->announcement_bytes;
    frame[0] = FINAL | TEXT;
    frame[1] = (uint8_t)(MASKED | size);
    memset(frame + 2, 0, MASK_BYTES);  /* a mask that changes nothing */
    memcpy(frame + SMALL_HEADER_BYTES, self->announcement, size);
    self->announcement_bytes = 0;
    /* It came while there was a sink. Now there may be none: so the fallback gets something that is not None, and is
       not asked, and then the true one. */
    PyObject *sinks[] = {Py_True, self->sink == NULL ? Py_None : self->sink};
    Py_INCREF(sinks[1]);
    int failed = 0;
    for (int i = 0; i < 2 && !failed; i++) {
        PyObject *nothing = PyObject_CallMethodOneArg(self->fallback, self->names->resume, sinks[i]);
        failed = nothing == NULL;
        Py_XDECREF(nothing);
        if (i == 0 && !failed) {
            PyObject *count = PyLong_FromSize_t(SMALL_HEADER_BYTES + size);
            nothing = count == NULL ? NULL : PyObject_CallMethodOneArg(self->fallback, self->names->received, count);
            failed = nothing == NULL;
            Py_XDECREF(nothing);
            Py_XDECREF(count);
        }
    }
    Py_DECREF(sinks[1]);
    return failed ? -1 : 0;
}

/* Let the fallback read what lies in the scratch, and all that follows. Returns its messages. */
static PyObject *
hand_over(Reader *self, size_t position, size_t end)
{
    self->ours = false;
    if (self->held && tell_held(self) < 0)  /* nothing is held here any more; the fallback says what it holds */
        return NULL;
    if (self->announcement_bytes > 0) {
        if (keep(self, position, end) < 0 || hand_over_announcement(self) < 0)
            return NULL;
        position = 0;
        end = kept_bytes(self);
        if (end > 0)  /* or it has been forgotten meanwhile */
            memcpy(scratch_of(self), PyBytes_AS_STRING(self->kept), end);
        Py_CLEAR(self->kept);
    }
    memmove(scratch_of(self), scratch_of(self) + position, end - position);
    return fallback_received(self, end - position);
}

/* Read what lies in the scratch. Takes the reference `messages` and returns it with what was read; or NULL. */
static PyObject *
read_scratch(Reader *self, PyObject *messages, size_t position, size_t end)
{
    self->more = false;
    /* An announcement alone gives no message, and is never followed by a second one: so the turn is bounded. */
    while (self->ours && position < end && PyList_GET_SIZE(messages) < FRAMES_PER_TURN) {
        size_t taken = 0;  /* at most what is there, if the frame is taken */
        switch (read_frame(self, messages, scratch_of(self) + position, end - position, &taken)) {
        case TAKEN:
            position += taken;
            break;
        case PARTIAL:
            if (keep(self, position, end) < 0)
                goto failed;
            return messages;
        case NOT_OURS:
            if (PyList_GET_SIZE(messages) > 0)
                goto later;  /* what came before is given out first, or an error of the fallback would take it away */
            Py_DECREF(messages);
            return hand_over(self, position, end);
        case FAILED:
            goto failed;
        }
    }
    if (!self->ours || position == end)
        return messages;
later:
    self->more = true;
    if (keep(self, position, end) < 0)
        goto failed;
    return messages;
failed:
    Py_DECREF(messages);
    return NULL;
}

/* Read what has come: `direct` bytes in the image under way, if they are there already, and then those of the scratch
   up to `end`; what was kept belongs at its beginning. */
static PyObject *
read_on(Reader *self, size_t direct, size_t end)
{
    PyObject *messages = PyList_New(0);
    if (messages == NULL)
        return NULL;
    size_t position = 0;
    if (self->image != NULL) {
        const size_t lacking = self->length - self->filled;
        if (direct == 0)
            position = MIN(end, lacking);
        const uint8_t *masked = direct == 0 ? scratch_of(self) : NULL;
        if (add_to_image(self, messages, masked, direct == 0 ? position : direct) < 0) {
            Py_DECREF(messages);
            return NULL;
        }
    } else if (self->kept != NULL) {
        memcpy(scratch_of(self), PyBytes_AS_STRING(self->kept), kept_bytes(self));
        Py_CLEAR(self->kept);
    }
    messages = read_scratch(self, messages, position, end);
    if (messages != NULL && self->ours && tell_held(self) < 0)
        Py_CLEAR(messages);
    return messages;
}

/* Where in the scratch the next bytes belong, and how many of them. */
static size_t
room_in_scratch(const Reader *self, size_t *start)
{
    *start = kept_bytes(self);
    const size_t room = scratch_bytes(self) - *start;
    if (self->wary || self->last_image_bytes > LARGE_IMAGE_BYTES)
        return MIN(room, FEW_BYTES);
    /* The product is a size_t, as the image was not large. */
    return MIN(room, MAX(FIRST_BUFFER_BYTES, FRAMES_PER_TURN * self->last_image_bytes));
}

/* -- receiving */

/* After -1: true if the call was interrupted and shall be made again; else a Python exception is set. */
static bool
try_again(void)
{
    if (errno == EINTR)
        return PyErr_CheckSignals() == 0;
    PyErr_SetFromErrno(PyExc_OSError);  /* BlockingIOError where nothing was there */
    return false;
}

/* Receive from a socket, straight to where the bytes belong. */
static PyObject *
receive_plain(Reader *self, int fd)
{
    struct iovec parts[2];
    size_t direct, start;
    ssize_t came;
    do {
        struct msghdr message = {.msg_iov = parts};
        int count = 0;
        direct = 0;
        const size_t room = room_in_scratch(self, &start);
        if (self->image != NULL) {
            direct = self->capacity - self->filled;
            parts[count++] = (struct iovec){image_end(self), direct};
        }
        if (self->image == NULL || self->capacity == self->length)
            parts[count++] = (struct iovec){scratch_of(self) + start, room};
        message.msg_iovlen = count;
        came = recvmsg(fd, &message, MSG_DONTWAIT);
    } while (came < 0 && try_again());
    if (came < 0)
        return NULL;
    if (came == 0)
        Py_RETURN_NONE;
    direct = MIN(direct, (size_t)came);
    return read_on(self, direct, start + ((size_t)came - direct));
}

/* Call a method of the transport that says how many bytes came, at most so many. Returns -1 with an exception. */
static Py_ssize_t
ask_transport(PyObject *transport, PyObject *name, PyObject *argument, size_t at_most)
{
    PyObject *answer = PyObject_CallMethodOneArg(transport, name, argument);
    if (answer == NULL)
        return -1;
    const Py_ssize_t came = PyLong_AsSsize_t(answer);
    Py_DECREF(answer);
    if (came == -1 && PyErr_Occurred())
        return -1;
    if (came < 0 || (size_t)came > at_most) {
        PyErr_Format(PyExc_ValueError, "%zd bytes came, expected at most %zu", came, at_most);
        return -1;
    }
    return came;
}

/* The same where the rest of the image under way comes into the scratch as well. */
static size_t
room_for_all(const Reader *self, size_t *start)
{
    const size_t room = room_in_scratch(self, start);
    if (self->image == NULL)
        return room;
    /* Nothing is kept then, so that all of the scratch is free; and a length is at most a Py_ssize_t. */
    return MIN(scratch_bytes(self), MAX(room, self->length - self->filled + FEW_BYTES));
}

/* A view of the scratch where the next bytes belong. The image's own buffer is not given away: views may outlive it. */
static PyObject *
view_of_room(Reader *self)
{
    size_t start;
    const size_t room = room_for_all(self, &start);
    if (start > 0)
        memcpy(scratch_of(self), PyBytes_AS_STRING(self->kept), start);
    PyObject *whole = PyMemoryView_FromObject(self->scratch.obj);
    if (whole == NULL)
        return NULL;
    PyObject *view = PySequence_GetSlice(whole, (Py_ssize_t)start, (Py_ssize_t)(start + room));
    Py_DECREF(whole);
    return view == NULL ? NULL : Py_BuildValue("(N)", view);
}

static PyObject *
receive_through(Reader *self, PyObject *transport)
{
    size_t start;
    const size_t room = room_for_all(self, &start);
    PyObject *buffers = view_of_room(self);
    if (buffers == NULL)
        return NULL;
    const Py_ssize_t came = ask_transport(transport, self->names->receive_into, buffers, room);
    Py_DECREF(buffers);
    if (came < 0)
        return NULL;
    if (came == 0)
        Py_RETURN_NONE;
    if (kept_bytes(self) != start)  /* it has been forgotten meanwhile */
        return PyList_New(0);
    return read_on(self, 0, start + (size_t)came);
}

/* So many bytes of a refused image have gone by, at most those that are to be skipped. */
static PyObject *
skipped(Reader *self, size_t count)
{
    PyObject *messages = PyList_New(0);
    if (messages == NULL || self->refusal == NULL)  /* it has been forgotten meanwhile */
        return messages;
    self->to_skip -= count;
    if (self->to_skip == 0 && end_skipping(self, messages) < 0)
        Py_CLEAR(messages);
    return messages;
}

static PyObject *
receive_and_forget(Reader *self, PyObject *transport, int fd)
{
    const size_t to_skip = self->to_skip;
    Py_ssize_t came = -1;
#ifdef __linux__
    if (fd >= 0) {
        /* With this flag TCP drops bytes without a copy. A socket of another kind would write them: then it finds no
           address to write to, takes nothing, and the transport knows what to do. */
        do
            came = recv(fd, NULL, MIN(to_skip, MAX_SKIP_BYTES), MSG_TRUNC | MSG_DONTWAIT);
        while (came < 0 && errno != EFAULT && try_again());
        if (came < 0 && PyErr_Occurred())
            return NULL;
    }
#endif
    if (came < 0) {
        PyObject *size = PyLong_FromSize_t(to_skip);
        if (size == NULL)
            return NULL;
        came = ask_transport(transport, self->names->skip, size, to_skip);
        Py_DECREF(size);
        if (came < 0)
            return NULL;
    }
    if (came == 0)
        Py_RETURN_NONE;
    return skipped(self, (size_t)came);
}

/* The socket of a transport that carries the bytes themselves; -1 where it does not, -2 with an exception. Who closes
   the socket has told the reader to forget: its number, by now another connection's maybe, is not asked for then. */
static int
plain_socket_of(const Reader *self, PyObject *transport)
{
    PyObject *plain = PyObject_GetAttr(transport, self->names->plain);
    if (plain == NULL)
        return -2;
    const int is_plain = PyObject_IsTrue(plain);
    Py_DECREF(plain);
    if (is_plain <= 0)
        return is_plain == 0 ? -1 : -2;
    PyObject *fileno = PyObject_GetAttr(transport, self->names->fileno);
    if (fileno == NULL)
        return -2;
    const int fd = PyObject_AsFileDescriptor(fileno);
    Py_DECREF(fileno);
    return fd < 0 ? -2 : fd;
}

static PyObject *
receive(Reader *self, PyObject *transport)
{
    if (!self->ours)
        return ask_fallback(self, self->names->receive, transport);
    if (self->more)
        return read_on(self, 0, kept_bytes(self));
    if (make_room(self) < 0)
        return NULL;
    if (!self->ours)  /* it has been forgotten meanwhile */
        return PyList_New(0);
    const int fd = plain_socket_of(self, transport);
    if (fd == -2)
        return NULL;
    if (self->refusal != NULL)
        return receive_and_forget(self, transport, fd);
    return fd < 0 ? receive_through(self, transport) : receive_plain(self, fd);
}

/* -- what Python sees */

/* A callback may call `forget`, and nothing else: what is being read would change under our hands. */
static int
begin(Reader *self)
{
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "the reader is being used by who calls this");
        return -1;
    }
    self->busy = true;
    return 0;
}

static PyObject *
Reader_receive(PyObject *object, PyObject *transport)
{
    Reader *self = (Reader *)object;
    if (begin(self) < 0)
        return NULL;
    PyObject *messages = receive(self, transport);
    self->busy = false;
    return messages;
}

static PyObject *
Reader_received(PyObject *object, PyObject *count)
{
    Reader *self = (Reader *)object;
    const Py_ssize_t came = PyLong_AsSsize_t(count);
    if ((came == -1 && PyErr_Occurred()) || begin(self) < 0)
        return NULL;
    PyObject *messages = NULL;
    const size_t start = kept_bytes(self);
    if (!self->ours)
        messages = ask_fallback(self, self->names->received, count);
    else if (came < 0 || (size_t)came > scratch_bytes(self) - start || self->refusal != NULL)
        PyErr_Format(PyExc_ValueError, "%zd bytes cannot have been received", came);
    else
        messages = read_on(self, 0, start + (size_t)came);
    self->busy = false;
    return messages;
}

static PyObject *
Reader_buffers(PyObject *object, PyObject *Py_UNUSED(none))
{
    Reader *self = (Reader *)object;
    if (begin(self) < 0)
        return NULL;
    PyObject *buffers = self->ours ? view_of_room(self) : PyObject_CallMethod(self->fallback, "buffers", NULL);
    self->busy = false;
    return buffers;
}

static PyObject *
Reader_skipped(PyObject *object, PyObject *count)
{
    Reader *self = (Reader *)object;
    const Py_ssize_t went = PyLong_AsSsize_t(count);
    if ((went == -1 && PyErr_Occurred()) || begin(self) < 0)
        return NULL;
    PyObject *messages = NULL;
    if (!self->ours) {
        PyObject *name = PyUnicode_FromString("skipped");
        if (name != NULL)
            messages = ask_fallback(self, name, count);
        Py_XDECREF(name);
    } else if (self->refusal == NULL || went < 0 || (size_t)went > self->to_skip) {
        PyErr_Format(PyExc_ValueError, "%zd bytes cannot have been skipped", went);
    } else {
        messages = skipped(self, (size_t)went);
    }
    self->busy = false;
    return messages;
}

static PyObject *
Reader_resume(PyObject *object, PyObject *sink)
{
    Reader *self = (Reader *)object;
    if (begin(self) < 0)
        return NULL;
    PyObject *nothing = PyObject_CallMethodOneArg(self->fallback, self->names->resume, sink);
    if (nothing != NULL) {
        const bool is_sink = sink != Py_None;
        Py_XSETREF(self->sink, is_sink ? Py_NewRef(sink) : NULL);
        self->short_way = is_sink && self->heads != NULL && scratch_bytes(self) >= MIN_SCRATCH_BYTES;
        self->wary = false;
        if (!self->ours && take_back(self) < 0)
            Py_CLEAR(nothing);
    }
    self->busy = false;
    return nothing;
}

/* The fallback forgets too, and then has everything: it knows what a reader of no further use does. */
static PyObject *
Reader_forget(PyObject *object, PyObject *Py_UNUSED(none))
{
    Reader *self = (Reader *)object;
    self->ours = self->short_way = false;
    self->announcement_bytes = 0;
    Py_CLEAR(self->image);
    Py_CLEAR(self->kept);
    Py_CLEAR(self->refusal);
    Py_CLEAR(self->hold);
    Py_CLEAR(self->sink);
    return PyObject_CallMethodNoArgs(self->fallback, self->names->forget);
}

static PyObject *
Reader_more(PyObject *object, void *Py_UNUSED(closure))
{
    const Reader *self = (const Reader *)object;
    return self->ours ? PyBool_FromLong(self->more) : PyObject_GetAttr(self->fallback, self->names->more);
}

static PyObject *
Reader_missing(PyObject *object, void *Py_UNUSED(closure))
{
    const Reader *self = (const Reader *)object;
    if (!self->ours)
        return PyObject_GetAttr(self->fallback, self->names->missing);
    if (self->refusal != NULL)
        return PyLong_FromSize_t(self->to_skip);
    return PyLong_FromSize_t(self->image == NULL ? 0 : self->length - self->filled);
}

static PyObject *
Reader_skipping(PyObject *object, void *Py_UNUSED(closure))
{
    const Reader *self = (const Reader *)object;
    return self->ours ? PyBool_FromLong(self->refusal != NULL)
                      : PyObject_GetAttr(self->fallback, self->names->skipping);
}

/* The length of the shortest; 0 where one is empty, or no bytes. */
static size_t
shortest_of(PyObject *heads)
{
    if (!PyTuple_CheckExact(heads) || PyTuple_GET_SIZE(heads) == 0)
        return 0;
    size_t shortest = SIZE_MAX;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(heads); i++) {
        PyObject *head = PyTuple_GET_ITEM(heads, i);
        const size_t size = PyBytes_CheckExact(head) ? (size_t)PyBytes_GET_SIZE(head) : 0;
        shortest = MIN(shortest, size);
    }
    return shortest;
}

static PyObject *
Reader_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    PyObject *fallback, *scratch, *hold, *heads, *prefix;
    Py_ssize_t max_bytes;
    if (keywords != NULL && PyDict_GET_SIZE(keywords) != 0) {
        PyErr_SetString(PyExc_TypeError, "Reader takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "OnO!OOS:Reader", &fallback, &max_bytes, &PyByteArray_Type, &scratch, &hold,
                          &heads, &prefix))
        return NULL;
    const size_t shortest = heads == Py_None ? 1 : shortest_of(heads);
    if (max_bytes < 0 || PyBytes_GET_SIZE(prefix) > 1 || shortest == 0) {
        PyErr_SetString(PyExc_ValueError, "expected a limit of at least 0, heads that are bytes, and a prefix of at "
                                          "most one byte");
        return NULL;
    }
    Reader *self = (Reader *)type->tp_alloc(type, 0);  /* all zeros */
    if (self == NULL)
        return NULL;
    if (PyObject_GetBuffer(scratch, &self->scratch, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->names = PyType_GetModuleState(type);
    self->fallback = Py_NewRef(fallback);
    self->hold = hold == Py_None ? NULL : Py_NewRef(hold);
    self->heads = heads == Py_None ? NULL : Py_NewRef(heads);
    self->shortest_bytes = BEFORE_BYTES + shortest + 1;  /* its bracket */
    self->max_bytes = (size_t)max_bytes;
    self->prefix_bytes = (uint8_t)PyBytes_GET_SIZE(prefix);
    self->prefix = (uint8_t)PyBytes_AS_STRING(prefix)[0];  /* of an empty one the 0 behind it */
    return (PyObject *)self;
}

static int
Reader_traverse(PyObject *object, visitproc visit, void *arg)
{
    Reader *self = (Reader *)object;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->fallback);
    Py_VISIT(self->scratch.obj);
    Py_VISIT(self->hold);
    Py_VISIT(self->sink);
    Py_VISIT(self->refusal);
    return 0;
}

/* The fallback and the scratch stay until the end, as a tuple's items do: no method has to ask if they are there. */
static int
Reader_clear(PyObject *object)
{
    Reader *self = (Reader *)object;
    Py_CLEAR(self->hold);
    Py_CLEAR(self->sink);
    Py_CLEAR(self->refusal);
    self->ours = self->short_way = false;
    return 0;
}

static void
Reader_dealloc(PyObject *object)
{
    Reader *self = (Reader *)object;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Reader_clear(object);
    Py_CLEAR(self->image);
    Py_CLEAR(self->kept);
    Py_CLEAR(self->heads);
    Py_CLEAR(self->fallback);
    PyBuffer_Release(&self->scratch);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef reader_methods[] = {
    {"receive", Reader_receive, METH_O, NULL},
    {"received", Reader_received, METH_O, NULL},
    {"buffers", Reader_buffers, METH_NOARGS, NULL},
    {"skipped", Reader_skipped, METH_O, NULL},
    {"resume", Reader_resume, METH_O, NULL},
    {"forget", Reader_forget, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef reader_attributes[] = {
    {"more", Reader_more, NULL, NULL, NULL},
    {"missing", Reader_missing, NULL, NULL, NULL},
    {"skipping", Reader_skipping, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_doc, "Reader(fallback, max_message_bytes, scratch, hold, heads, prefix): a MessageReader for images on their"
                " short way, with another one for everything else."},
    {Py_tp_new, Reader_new},
    {Py_tp_dealloc, Reader_dealloc},
    {Py_tp_traverse, Reader_traverse},
    {Py_tp_clear, Reader_clear},
    {Py_tp_methods, reader_methods},
    {Py_tp_getset, reader_attributes},
    {0, NULL},
};

static PyType_Spec reader_spec = {
    .name = "compiled.reader.Reader",
    .basicsize = sizeof(Reader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = reader_slots,
};

/* -- the header of a JPEG; drawn and explained in frames.py */

#define JPEG_SOF_BYTES 8
#define JPEG_EOI_BYTES 2
/* Metadata takes some tens of segments. What has more than this is left to Python, which takes some more. */
#define JPEG_MAX_SEGMENTS 1000

static bool
is_jpeg_frame_header(uint8_t marker)
{
    return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
}

/* The size of a JPEG that is whole and has nothing unusual about it; false for every other one. `at` is at most `size`
   plus a segment's 65,535 bytes, and nothing is read at `size` or behind it. */
static bool
find_jpeg_size(const uint8_t *image, size_t size, unsigned *width, unsigned *height)
{
    if (size < 4 || image[0] != 0xFF || image[1] != 0xD8 || image[size - 2] != 0xFF || image[size - 1] != 0xD9)
        return false;
    size_t needed = 0;  /* not 0: the frame header was there */
    size_t at = 2;
    for (int segment = 0; segment < JPEG_MAX_SEGMENTS; segment++) {
        if (at >= size || image[at] != 0xFF)
            return false;
        while (at < size && image[at] == 0xFF)  /* fill */
            at++;
        if (at >= size)
            return false;
        const uint8_t marker = image[at++];
        if (marker == 0xDA && needed > 0)  /* SOS */
            return size >= needed && *width > 0 && *height > 0;
        if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD7))  /* TEM, RST: no length */
            continue;
        if (marker == 0x00 || marker == 0xD8 || marker == 0xD9 || marker == 0xDA || marker == 0xDE || at + 2 > size)
            return false;
        const size_t length = (size_t)image[at] << 8 | image[at + 1];
        if (length < 2)
            return false;
        if (is_jpeg_frame_header(marker)) {
            if (needed > 0 || at + JPEG_SOF_BYTES > size)
                return false;
            const unsigned components = image[at + 7];
            if (components == 0 || length != JPEG_SOF_BYTES + 3 * components)
                return false;
            *height = (unsigned)image[at + 3] << 8 | image[at + 4];
            *width = (unsigned)image[at + 5] << 8 | image[at + 6];
            needed = at + length + JPEG_EOI_BYTES;
        }
        at += length;
    }
    return false;
}

static PyObject *
read_jpeg(PyObject *Py_UNUSED(module), PyObject *image)
{
    unsigned width = 0, height = 0;
    if (!PyBytes_CheckExact(image) ||
        !find_jpeg_size((const uint8_t *)PyBytes_AS_STRING(image), (size_t)PyBytes_GET_SIZE(image), &width, &height))
        Py_RETURN_NONE;
    return Py_BuildValue("(II)", width, height);
}

/* -- the module */

static int
fill_module(PyObject *module)
{
    Names *names = PyModule_GetState(module);
#define FILL(name)                                                                                                     \
    if ((names->name = PyUnicode_InternFromString(#name)) == NULL)                                                     \
        return -1;
    NAMES(FILL)
#undef FILL
    PyObject *type = PyType_FromModuleAndSpec(module, &reader_spec, NULL);
    if (type == NULL)
        return -1;
    const int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    if (failed)
        return -1;
#define ADD(constant) PyModule_AddIntConstant(module, #constant, (long)constant) < 0
    if (ADD(FIRST_BUFFER_BYTES) || ADD(FIRST_IMAGE_BYTES) || ADD(FRAMES_PER_TURN) || ADD(MAX_ANNOUNCEMENT_BYTES) ||
        ADD(LARGE_IMAGE_BYTES) || ADD(FEW_BYTES) || ADD(IMAGE) || ADD(REFUSED) || ADD(MIN_SCRATCH_BYTES))
        return -1;
#undef ADD
    return 0;
}

/* The names are in no cycle, so that the garbage collector need not know of them. */
static void
free_module(void *module)
{
    Names *names = PyModule_GetState(module);
    if (names == NULL)
        return;
#define DROP(name) Py_CLEAR(names->name);
    NAMES(DROP)
#undef DROP
}

static PyMethodDef module_functions[] = {
    {"read_jpeg", read_jpeg, METH_O,
     "read_jpeg(image): (width, height) of a whole JPEG with nothing unusual about it, None for everything else."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, fill_module},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "compiled.reader",
    .m_doc = "The way of an image from the socket to its bytes, and the header of a JPEG, at the speed of C.",
    .m_size = sizeof(Names),
    .m_methods = module_functions,
    .m_slots = module_slots,
    .m_free = free_module,
};

PyMODINIT_FUNC
PyInit_reader(void)
{
    return PyModuleDef_Init(&module_definition);
}
