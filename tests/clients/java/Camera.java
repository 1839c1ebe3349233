import io.socket.client.Ack;
import io.socket.client.IO;
import io.socket.client.Manager;
import io.socket.client.Socket;
import io.socket.engineio.client.Transport;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.json.JSONArray;
import org.json.JSONObject;

/** The camera of tests/clients/test_cameras.py, on the Java client 1 or 2: what is used of them is the same. */
public class Camera extends Play {
    private static final int BURST = 20;
    private static final int IMAGES_AFTER_RETURN = 10;
    private static final String RESULT_EVENT = "onResult";

    private final String url;
    private final String transport;
    private final String folder;
    private final String user;
    private final String password;

    Camera(String[] args) {
        url = args[0];
        transport = args[1];
        folder = args[2];
        user = args[3];
        password = args[4];
    }

    public static void main(String[] args) {
        perform(new Camera(args)::stream);
    }

    private void beRefused() throws Exception {
        IO.Options options = options(transport);
        options.reconnection = false;
        Socket socket = IO.socket(url, options);
        BlockingQueue<Object[]> gone = hear(socket, Socket.EVENT_DISCONNECT);
        JSONArray callbacks = new JSONArray();
        long[] refusedAt = new long[1];
        socket.on("onAuthentication", args -> {
            callbacks.put(list(args));
            refusedAt[0] = System.nanoTime();
        });
        socket.on(Socket.EVENT_CONNECT, args -> socket.emit("authenticate", user, password + "x", "onAuthentication"));
        socket.connect();
        take(gone);
        say(event("wrong login")
                .put("callbacks", callbacks)
                .put("disconnected_after_sec", (System.nanoTime() - refusedAt[0]) / 1e9));
    }

    private void stream() throws Exception {
        Thread refused = meanwhile(this::beRefused);
        List<byte[]> images = readImages();
        IO.Options options = options(transport);
        options.reconnectionAttempts = 10;
        options.reconnectionDelay = 200;
        options.randomizationFactor = 0;
        Socket socket = IO.socket(url, options);
        BlockingQueue<Object[]> connected = hear(socket, Socket.EVENT_CONNECT);
        BlockingQueue<Object[]> disconnected = hear(socket, Socket.EVENT_DISCONNECT);
        BlockingQueue<Object[]> answered = hear(socket, "onAuthentication");
        BlockingQueue<Object[]> transports = hear(socket.io(), Manager.EVENT_TRANSPORT);
        BlockingQueue<Object[]> errors = hear(socket, "serverError");
        BlockingQueue<Object[]> results = hearResults(socket);

        socket.connect();
        take(connected);
        say(event("before login").put("answer", send(socket, images.subList(0, 1), true).get(0)));
        say(event("serverError").put("code", take(errors)[0]));
        JSONArray callbacks = new JSONArray();
        logIn(socket, answered, callbacks);
        say(event("login").put("callbacks", callbacks));

        int half = images.size() / 2;
        JSONArray answers = send(socket, images.subList(0, half), true);
        JSONArray others = send(socket, images.subList(half, images.size()), true, RESULT_EVENT);
        for (int index = 0; index < others.length(); index++) {
            answers.put(others.get(index));
        }
        JSONObject streamed = event("streamed").put("answers", answers);
        String last = null;
        for (Object[] args : transports) {
            last = ((Transport) args[0]).name;
        }
        say(streamed.put("transport", last));
        say(event("burst").put("answers", send(socket, images.subList(0, BURST), false)));

        refused.join();
        say(event("ready to be dropped"));
        take(disconnected);
        take(connected);
        logIn(socket, answered, callbacks);
        say(event("login after return").put("callbacks", callbacks));
        say(event("streamed after return")
                .put("answers", send(socket, images.subList(0, IMAGES_AFTER_RETURN), true)));
        say(event("results").put("results", shown(results)));

        // Whoever exits now cuts the goodbye short, which another thread sends.
        BlockingQueue<Object[]> closed = hear(socket.io(), Manager.EVENT_CLOSE);
        socket.disconnect();
        take(closed);
    }

    private List<byte[]> readImages() throws Exception {
        List<Path> paths;
        try (Stream<Path> listing = Files.list(Path.of(folder))) {
            paths = listing.sorted().collect(Collectors.toList());
        }
        List<byte[]> images = new ArrayList<>();
        for (Path path : paths) {
            images.add(Files.readAllBytes(path));
        }
        return images;
    }

    private void logIn(Socket socket, BlockingQueue<Object[]> answered, JSONArray callbacks) throws Exception {
        socket.emit("authenticate", user, password, "onAuthentication");
        callbacks.put(list(take(answered)));
    }

    /** The name and the arguments of all results, in the order in which they come. */
    private static BlockingQueue<Object[]> hearResults(Socket socket) {
        BlockingQueue<Object[]> results = new LinkedBlockingQueue<>();
        for (String name : new String[] {"result", RESULT_EVENT}) {
            socket.on(name, args -> results.add(new Object[] {name, args[0], args[1]}));
        }
        return results;
    }

    /** Of a picture its digest. */
    private static JSONArray shown(Iterable<Object[]> results) throws Exception {
        JSONArray shown = new JSONArray();
        for (Object[] each : results) {
            Object result = each[1];
            if (result instanceof byte[]) {
                StringBuilder digest = new StringBuilder();
                for (byte value : MessageDigest.getInstance("SHA-256").digest((byte[]) result)) {
                    digest.append(String.format("%02x", value));
                }
                result = new JSONObject().put("sha256", digest);
            }
            shown.put(new JSONObject().put("name", each[0]).put("result", result).put("about", each[2]));
        }
        return shown;
    }

    /**
     * Send the images, each after the former's answer or all at once, and return the answers.
     *
     * @param event the result event, if any.
     */
    private static JSONArray send(Socket socket, List<byte[]> images, boolean inTurn, String... event)
            throws Exception {
        BlockingQueue<Object[]> answers = new LinkedBlockingQueue<>();
        JSONArray all = new JSONArray();
        for (byte[] image : images) {
            Object[] args = event.length == 0 ? new Object[] {image} : new Object[] {image, event[0]};
            socket.emit("receiveImage", args, (Ack) answers::add);
            if (inTurn) {
                all.put(take(answers)[0]);
            }
        }
        while (all.length() < images.size()) {
            all.put(take(answers)[0]);
        }
        return all;
    }
}
