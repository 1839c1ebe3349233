import io.socket.client.Ack;
import io.socket.client.IO;
import io.socket.client.Socket;
import java.util.Arrays;
import java.util.Collections;
import java.util.Iterator;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import org.json.JSONArray;
import org.json.JSONObject;

/** The talker of tests/clients/test_talkers.py, on the Java client 1 or 2. */
public class Talker extends Play {
    private static final byte[] BYTES = new byte[256];

    static {
        for (int value = 0; value < BYTES.length; value++) {
            BYTES[value] = (byte) value;
        }
    }

    private final String url;
    private final String transport;
    private final String text;

    Talker(String[] args) {
        url = args[0];
        transport = args[1];
        text = args[2];
    }

    public static void main(String[] args) {
        perform(new Talker(args)::talk);
    }

    private void talk() throws Exception {
        Socket socket = IO.socket(url, options(transport));
        Socket other = IO.socket(url, options(transport.equals("polling") ? "websocket" : "polling"));
        BlockingQueue<Object[]> welcome = hear(socket, "welcome");
        BlockingQueue<Object[]> otherWelcome = hear(other, "welcome");
        socket.connect();
        other.connect();
        say(event("welcome").put("args", shown(list(take(welcome)))));
        take(otherWelcome);

        BlockingQueue<Object[]> echoed = new LinkedBlockingQueue<>();
        JSONObject thing = new JSONObject()
                .put("number", 1.5)
                .put("bytes", BYTES)
                .put("list", list(new byte[] {(byte) 255}, JSONObject.NULL, true));
        socket.emit("echo", new Object[] {text, thing}, (Ack) echoed::add);
        say(event("echo").put("args", shown(list(take(echoed)))));

        socket.on("ask", args -> ((Ack) args[1]).call(reversed((byte[]) args[0]), text));
        BlockingQueue<Object[]> said = hear(socket, "you said");
        socket.emit("ask me");
        say(event("you said").put("args", shown(list(take(said)))));

        BlockingQueue<Object[]> told = hear(socket, "told");
        BlockingQueue<Object[]> otherTold = hear(other, "told");
        socket.emit("tell everybody", BYTES);
        say(event("told").put("args", shown(list(take(told)[0], take(otherTold)[0]))));

        Socket cam = IO.socket(url + "/cam?token=abc", optionsWithToken());
        BlockingQueue<Object[]> token = hear(cam, "token");
        cam.connect();
        say(event("token").put("args", shown(list(take(token)))));
        Socket denied = IO.socket(url + "/deny", options(transport));
        BlockingQueue<Object[]> why = hear(denied, "error");
        denied.on(Socket.EVENT_CONNECT_ERROR, why::add);
        denied.connect();
        JSONObject data = (JSONObject) take(why)[0];
        say(event("denied").put("code", (data.has("data") ? data.getJSONObject("data") : data).get("code")));

        for (Socket each : Arrays.asList(socket, other, cam, denied)) {
            each.disconnect();
        }
    }

    /** Version 1 says the token in the namespace's query and has no such option. */
    private IO.Options optionsWithToken() throws Exception {
        IO.Options options = options(transport);
        try {
            IO.Options.class.getField("auth").set(options, Collections.singletonMap("token", "abc"));
        } catch (NoSuchFieldException version1) {
            return options;
        }
        return options;
    }

    private static byte[] reversed(byte[] bytes) {
        byte[] reversed = new byte[bytes.length];
        for (int position = 0; position < bytes.length; position++) {
            reversed[position] = bytes[bytes.length - 1 - position];
        }
        return reversed;
    }

    /** Bytes as something that JSON can carry. */
    private static Object shown(Object value) throws Exception {
        if (value instanceof byte[]) {
            StringBuilder hex = new StringBuilder();
            for (byte each : (byte[]) value) {
                hex.append(String.format("%02x", each));
            }
            return new JSONObject().put("bytes", hex);
        }
        if (value instanceof JSONArray) {
            JSONArray shown = new JSONArray();
            for (int index = 0; index < ((JSONArray) value).length(); index++) {
                shown.put(shown(((JSONArray) value).get(index)));
            }
            return shown;
        }
        if (value instanceof JSONObject) {
            JSONObject shown = new JSONObject();
            for (Iterator<?> keys = ((JSONObject) value).keys(); keys.hasNext(); ) {
                String key = (String) keys.next();
                shown.put(key, shown(((JSONObject) value).get(key)));
            }
            return shown;
        }
        return value;
    }
}
